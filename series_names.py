"""Interpretation of series names in many languages: the sequence, and whether a contrast agent was given.

The words and their roles are in ``series_names.toml``. A name is split into these words, even where nothing
separates them ("T1ohneKM"), and each word is replaced by the letter of its role. The patterns below are
matched against those letters, so they work in every language of the file. A negation counts wherever it
stands in the name; a name with an unknown word proves nothing.
"""

import re
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

WORDS_FILE = Path(__file__).with_suffix(".toml")

Contrast = Literal["proven", "denied", "unknown"]
Groups = Mapping[str, tuple[str, ...]]

# The letter of each role. If a word has several roles, the first in this order counts.
ROLES = {
    "without": "O", "not": "N", "plain": "L", "pre": "R", "before": "B", "post": "P", "with": "W",
    "agent": "G", "short_agent": "c", "t1_agent": "p", "with_agent": "w", "after": "A", "both": "&",
    "technique": "F", "occasion": "X", "t1": "T", "signed": "g", "filler": "f", "understood": "n",
}  # fmt: skip
UNDERSTOOD, NOT_UNDERSTOOD = "n", "?"
WITH_OR_SHORT_AGENT, SIGNED_OR_FILLER = "K", "i"
SIGNS = "+-/&\N{PLUS-MINUS SIGN}"
# What a file of words may contain: groups by table. The kinds are searched in this order.
GROUPS: Mapping[str, Collection[str]] = {
    "words": ROLES,
    "kinds": (
        "localizer", "field_map", "diffusion", "susceptibility", "angiography", "perfusion", "functional",
        "spectroscopy", "map", "projection", "proton_density", "other_weighting",
    ),
    "derived": ("words",),
    "unless_t1": ("gradient_echo", "phase", "flow"),
    "sequences": ("T1", "FLAIR", "T2"),
    "body": ("other", "head"),
}  # fmt: skip
# Roles whose words may be glued to others even if they are short: "KM", "T1", "FS".
GLUED_ROLES = ("G", "T", "F")
MIN_GLUED_LENGTH = 3
# DICOM allows 64 characters in a name; a longer run is not cut into words.
MAX_RUN_LENGTH = 64

# Patterns of roles. A blank stands for any separator.
FILLERS = "[fi /+-]*"
ANY_AGENT = "[GcK]"
TECHNIQUE = r"(?:[OWwN]|(?<![wWONPRAB] )(?<![wWONPRAB])K)[f -]+F(?:[f -]*F)*"
OCCASION = "[RPBA][ /-]*X(?:[ -]?X)*"
WITH, BEFORE, AFTER = "[WwK]", "[RB]", "[AP]"
# "W WO" needs no word between; "WO CON" is "without contrast" (English "con"), not "without and with".
BESIDE, AND = "[ &/+-]*", "[ +-]*[&/][ &/+-]*"
WITH_AND_WITHOUT = f"[Ww]{BESIDE}O|O{BESIDE}[Ww]|K{AND}O|O{AND}K"
BEFORE_AND_AFTER = f"{BEFORE}{BESIDE}{AFTER}|{AFTER}{BESIDE}{BEFORE}"
BOTH = f"(?:{WITH_AND_WITHOUT}|{BEFORE_AND_AFTER})(?:{FILLERS}{ANY_AGENT}+)?"
PLUS_OR_MINUS = "± ?[GcKgi]"
NEUTRAL = re.compile(f"{TECHNIQUE}|{OCCASION}|{BOTH}|{PLUS_OR_MINUS}")
# A minus sign directly follows the agent; before the agent, the sign may be a dash.
MINUS = "[GcKgi]-(?![A-Za-z?])"
DENIAL = re.compile(f"[ONBR]{FILLERS}{ANY_AGENT}+|G[ -]?[OB]|{MINUS}|[OLR]")
PLUS = r"\+ ?[GcKgi]|[GcKgi]\+"
PROOF = re.compile(f"[GP]|T ?c|T.*p|(?:{WITH}|A){FILLERS}{ANY_AGENT}|W$|{PLUS}")
# Leaves contrast unproven despite a proof: unknown words, and negations that concern other words.
DOUBT = re.compile(r"[?NB]|& ?[GcK]|(?:(?<= )|^)-[GcKgi]")

# Roles of words in ContrastBolusAgent that say that no agent was given.
NO_AGENT = frozenset("ONLRB")
# The stem in the names of all gadolinium agents (WHO, International Nonproprietary Names).
GADOLINIUM = "gado"

# "m.d.c.", "i.v."
ABBREVIATION = re.compile(r"(?<![^\W_])(?:[^\W\d_]\.){2,}[^\W\d_]?(?![^\W_])")
# Letters that Unicode does not decompose into a letter and an accent.
WITHOUT_MARK = str.maketrans("ıøłđ", "iold", "") | {ord("æ"): "ae", ord("œ"): "oe"}
SPELLINGS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile("[\N{HYPHEN}-\N{HORIZONTAL BAR}\N{MINUS SIGN}]"), "-"),
    (ABBREVIATION, lambda match: match.group().replace(".", "")),
    (re.compile(r"\+\s?/?\s?-"), "\N{PLUS-MINUS SIGN}"),
    (re.compile(r"(?<=t2)\s?\*"), "star"),
    # An amount of zero.
    (re.compile(r"(?<![\d.,])0+(?:[.,]0+)?\s?(?:ml|cc|mmol)(?![^\W\d_])"), " without "),
    (re.compile(r"w\s?/\s?o(?:ut)?(?=t[12]|[\W\d_]|$)"), " without "),
    # "T1W/O": the W belongs to both.
    (re.compile(r"(?<=t[12])w(?=\s?/?\s?o(?![^\W_]))"), " w"),
)  # fmt: skip
# Parameters, e.g. "p2", "3t".
PARAMETER = re.compile(r"[a-z]\d+|\d+[a-z]")
# Short words with a digit ("3D"), an ideograph or a Korean syllable may be glued to others too.
GLUED_CHARACTER = re.compile("[0-9\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff]")


class Reading(NamedTuple):
    """The meaning of a name.

    sequence: T1, T2 or FLAIR; "" if the name says none of them, or another kind. other: the group of that
    kind, e.g. ``diffusion``, or "". word: the words that say so. derived, elsewhere: the words that say that
    the image was computed, or that it shows another part of the body. contrast_words: the words that prove or
    deny contrast. not_understood: the unknown words that leave a proof of contrast open.
    """

    sequence: str
    other: str
    word: str
    derived: str
    elsewhere: str
    contrast: Contrast
    contrast_words: str
    not_understood: str


class _Token(NamedTuple):
    text: str
    role: str


def fold(name: str) -> str:
    """Return the name without differences of case, width and accent."""
    # Normalised before and after folding, which can add marks (Turkish capital I with a dot).
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(mark for mark in decomposed if not unicodedata.combining(mark))
    plain = plain.translate(WITHOUT_MARK)
    return unicodedata.normalize("NFC", plain)


@dataclass(frozen=True)
class Vocabulary:
    """The tables of ``series_names.toml``: words by role, and the patterns of each kind of image by group."""

    words: Groups
    kinds: Groups
    derived: Groups
    unless_t1: Groups
    sequences: Groups
    body: Groups

    @staticmethod
    def of(*documents: Mapping[str, Any]) -> "Vocabulary":
        """Join documents. Raises: ValueError for one without the form of ``series_names.toml``."""
        tables: dict[str, dict[str, tuple[str, ...]]] = {table.name: {} for table in fields(Vocabulary)}
        for document in documents:
            for table, group, words in _entries(document):
                folded = tuple(map(fold, words))
                tables[table][group] = tables[table].get(group, ()) + folded
        return Vocabulary(**tables)

    def read(self, name: str) -> Reading:
        """Return the meaning of a name."""
        tokens = list(self._tokens(name))
        words = " ".join(token.text for token in tokens if token.text not in SIGNS)
        other_group, word = _first(self.kinds, words)
        sequence, sequence_word = _first(self.sequences, words)
        if not other_group and sequence != "T1":
            other_group, word = _first(self.unless_t1, words)
        return Reading(
            "" if other_group else sequence,
            other_group,
            word or sequence_word,
            _first(self.derived, words)[1],
            _first({"other": self.body["other"]}, words)[1],
            *_contrast(tokens),
        )

    def of_agent(self, value: str) -> Contrast:
        """Return whether the value of ContrastBolusAgent names an agent, denies one, or does neither."""
        tokens = list(self._tokens(value))
        if any(token.role in NO_AGENT for token in tokens):
            return "denied"
        is_named = any(token.role == ROLES["agent"] or GADOLINIUM in token.text for token in tokens)
        return "proven" if is_named else "unknown"

    def is_head(self, body_part: str) -> bool:
        """Return whether a BodyPartExamined is the head or the brain."""
        words = " ".join(re.findall(r"[^\W_]+", fold(body_part)))
        return bool(_first({"head": self.body["head"]}, words)[1])

    @cached_property
    def _roles(self) -> Mapping[str, str]:
        """Return the letter of the role of each word or phrase."""
        roles: dict[str, set[str]] = {}
        for role, words in self.words.items():
            for word in words:
                roles.setdefault(word, set()).add(role)
        for groups in (self.kinds, self.derived, self.unless_t1, self.sequences, self.body):
            for word in " ".join(pattern for patterns in groups.values() for pattern in patterns).split():
                if not set(word) & {"*", "#"}:
                    roles.setdefault(word, set()).add("understood")
        return {word: _letter(names) for word, names in roles.items()}

    @cached_property
    def _scanner(self) -> re.Pattern[str]:
        """Return the pattern for phrases, words with a slash, runs of letters and digits, signs and gaps."""
        phrases = sorted((word for word in self._roles if not word.isalnum()), key=len, reverse=True)
        # "s/ KM" is "sin KM" and not the Czech "s KM".
        spelled = [
            r"[\W_]+".join(
                re.escape(word) + ("(?!/)" if f"{word}/" in self._roles else "") for word in phrase.split()
            )
            for phrase in phrases
        ]
        ended = [phrase + (r"(?![^\W_])" if phrase[-1].isalnum() else "") for phrase in spelled]
        return re.compile(
            rf"(?<![^\W_])(?P<phrase>{'|'.join(ended)})|(?P<run>[^\W_]+)"
            rf"|(?P<sign>[{re.escape(SIGNS)}])|(?P<gap>[^\w{re.escape(SIGNS)}]+|_)"
        )

    def _tokens(self, name: str) -> Iterator[_Token]:
        """Yield the words and signs of a name, and one token of role " " for each gap between them."""
        folded = fold(name)
        for spelling, replacement in SPELLINGS:
            folded = spelling.sub(replacement, folded)
        for match in self._scanner.finditer(folded.strip()):
            if match["phrase"]:
                phrase = " ".join(re.findall(r"[^\W_]+/?", match["phrase"]))
                yield _Token(
                    phrase, self._roles.get(phrase, self._roles.get(match["phrase"], NOT_UNDERSTOOD))
                )
            elif match["run"]:
                yield from self._cut(match["run"])
            elif match["sign"]:
                yield _Token(match["sign"], match["sign"])
            else:
                yield _Token(" ", " ")

    def _cut(self, run: str) -> list[_Token]:
        """Cut a run of letters and digits into the fewest words; keep it whole if that is not possible."""
        if run in self._roles:
            return [_Token(run, self._roles[run])]
        if run.isdigit() or _first(self.kinds, run)[1]:
            return [_Token(run, UNDERSTOOD if run.isdigit() else NOT_UNDERSTOOD)]
        cuts: list[list[_Token] | None] = [[]]
        for end in range(1, len(run) + 1) if len(run) <= MAX_RUN_LENGTH else ():
            ways = [
                [*before, _Token(run[start:end], role)]
                for start, before in enumerate(cuts)
                if before is not None and (role := self._role_of_part(run, start, end))
            ]
            cuts.append(min(ways, key=len, default=None))
        whole = UNDERSTOOD if PARAMETER.fullmatch(run) else NOT_UNDERSTOOD
        return cuts[-1] or [_Token(run, whole)]

    def _role_of_part(self, run: str, start: int, end: int) -> str:
        """Return the role of that part of a run as a word; "" if it is not a word."""
        part = run[start:end]
        stands_alone = _is_seam(run, start) and _is_seam(run, end)
        if part.isdigit():
            return UNDERSTOOD if stands_alone else ""
        role = self._roles.get(part, "")
        may_be_glued = len(part) >= MIN_GLUED_LENGTH or GLUED_CHARACTER.search(part) or role in GLUED_ROLES
        return role if role and (stands_alone or may_be_glued) else ""


def _contrast(tokens: Sequence[_Token]) -> tuple[Contrast, str, str]:
    """Return what the roles say about contrast, the words that say it, and the unknown words."""
    roles = NEUTRAL.sub(_blot, "".join(token.role for token in tokens))
    denial = DENIAL.search(roles)
    rest = DENIAL.sub(_blot, roles)
    proof = PROOF.search(rest)

    def words(match: re.Match[str]) -> str:
        return "".join(token.text for token in tokens[match.start() : match.end()]).strip()

    if denial and not proof:
        return "denied", words(denial), ""
    if denial or not proof:
        return "unknown", "", ""
    if DOUBT.search(rest):
        doubtful = [token.text for token, role in zip(tokens, rest, strict=True) if role == NOT_UNDERSTOOD]
        return "unknown", "", ", ".join(doubtful)
    return "proven", words(proof), ""


def _blot(match: re.Match[str]) -> str:
    return ";" * len(match.group())


def _first(groups: Groups, words: str) -> tuple[str, str]:
    """Return the first group with a pattern among the words, and the match; two empty strings without one."""
    for group, patterns in groups.items():
        if match := _pattern(patterns).search(words):
            return group, match.group()
    return "", ""


@lru_cache(maxsize=256)
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    spelled = [
        re.escape(pattern).replace(r"\*", r"[^\W_]*").replace(r"\#", r"\d+").replace(r"\ ", " +")
        for pattern in patterns
    ]
    return re.compile(rf"(?<!\S)(?:{'|'.join(spelled)})(?!\S)")


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield table, group and words of a document. Raises: ValueError for another form."""
    for table, groups in document.items():
        languages = groups.values() if table == "words" and isinstance(groups, dict) else [groups]
        for language in languages:
            if table not in GROUPS or not isinstance(language, dict):
                raise ValueError(f"[{table}] is not a table of series names")
            for group, words in language.items():
                if group not in GROUPS[table]:
                    raise ValueError(f"{group} in [{table}] is not one of {', '.join(GROUPS[table])}")
                if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
                    raise ValueError(f"{group} in [{table}] is not a list of words")
                yield table, group, words


def _is_seam(run: str, position: int) -> bool:
    """Return whether a run begins, ends, or changes between letters, digits and scripts at a position."""
    if position in (0, len(run)):
        return True
    before, after = run[position - 1], run[position]
    return before.isdigit() != after.isdigit() or _script(before) != _script(after)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0]


def _letter(roles: set[str]) -> str:
    if {"with_agent", "short_agent"} <= roles:
        return WITH_OR_SHORT_AGENT
    if {"signed", "filler"} <= roles:
        return SIGNED_OR_FILLER
    return next(letter for role, letter in ROLES.items() if role in roles)


def load(path: Path) -> Vocabulary:
    """Return the shipped words joined with those of a file. Raises: ValueError, OSError."""
    try:
        return Vocabulary.of(_SHIPPED, tomllib.loads(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text") from error


def use(path: Path | None) -> None:
    """Put the words of that file into use, with the shipped ones; None: the shipped ones alone."""
    _in_use[0] = _DEFAULT if path is None else load(path)


def read(name: str) -> Reading:
    """Return the meaning of a name, by the words in use."""
    return _in_use[0].read(name)


def of_agent(value: str) -> Contrast:
    """Return whether the value of ContrastBolusAgent names an agent, denies one, or does neither."""
    return _in_use[0].of_agent(value)


def is_head(body_part: str) -> bool:
    """Return whether a BodyPartExamined is the head or the brain, by the words in use."""
    return _in_use[0].is_head(body_part)


_SHIPPED = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
_DEFAULT = Vocabulary.of(_SHIPPED)
_in_use = [_DEFAULT]
