"""What names of series say, as scanners and people write them in many languages."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import series_names
from series_names import of_agent, read

# As several vendors and languages have them: name, sequence where it is a conventional one, contrast.
TABLE = [
    ("t2_spc_da-fl_irprep_sag_p2_iso", "FLAIR", "unknown"),
    ("t1_mp2rage_sag_p3_iso_INV1", "", "unknown"),
    ("t1_mp2rage_sag_p3_iso_INV2", "", "unknown"),
    ("t1_mp2rage_sag_p3_iso_T1_Images", "", "unknown"),
    ("t1_mp2rage_sag_p3_iso_UNI_Images", "T1", "unknown"),
    ("MPGR T2 Ax", "", "unknown"),
    ("T2W_FFE", "", "unknown"),
    ("T1 EG 3D IV+", "T1", "proven"),
    ("AX T2 ECHO DE GRADIENT", "", "unknown"),
    ("AX T2 EG", "", "unknown"),
    ("3D T1 G+", "T1", "proven"),
    ("SAG T1 3D CON CIV", "T1", "proven"),
    ("T1 basale", "T1", "denied"),
    ("T1 con m.d.c.", "T1", "proven"),
    ("AX T1 SEM CONTRASTE", "T1", "denied"),
    ("T1 zonder contrast", "T1", "denied"),
    ("T1 3D zonder contrast", "T1", "denied"),
    ("T1 blanco", "T1", "denied"),
    ("T1 utan kontrast", "T1", "denied"),
    ("T1 uten kontrast", "T1", "denied"),
    ("T1 uden kontrast", "T1", "denied"),
    ("T1 bez kontrastu", "T1", "denied"),
    ("T1 KONTRASTSIZ", "T1", "denied"),
    ("T1 ilman tehostetta", "T1", "denied"),
    ("造影 T1 3D", "T1", "proven"),
    ("T1 tra 增强", "T1", "proven"),
    ("T1 без контраста", "T1", "denied"),
    ("T1 с контрастом", "T1", "proven"),
    ("T1 MAP", "", "unknown"),
    ("T2 MAP", "", "unknown"),
]
PROVEN = [name for name, _, contrast in TABLE if contrast == "proven"]
# The same kinds, further words.
MORE_PROVEN = [
    "Ax 3D T1 +C BRAVO", "T1W_3D_TFE_GD", "WATER: AX T1 LAVA +C", "T1 met contrast", "T1 na contrast",
    "T1 med kontrast", "T1 efter kontrast", "T1 etter kontrast", "T1 z kontrastem", "T1 po kontraście",
    "T1 s kontrastem", "T1 po k.l.", "T1 KONTRASTLI", "T1 kontrastlı", "T1 kontrast sonrası",
    "T1 tehosteella", "T1 após contraste", "T1 com contraste", "T1 tras contraste", "T1 dopo mdc",
    "T1 С+", "T1 с КУ",
    "T1 после контраста", "T1 增强后", "T1 造影後", "T1 造影剤あり", "T1 조영 후", "T1 C/ CONTRASTE",
    "T1 n. KM", "T1 uten FS med kontrast", "Ｔ１ ＋Ｃ", "T1 INJECTÉ",
    "T1 inject\N{LATIN SMALL LETTER E}\u0301",
]  # fmt: skip
MORE_DENIED = [
    "T1 sin contraste", "T1 S/C", "T1 S/ CONTRASTE", "T1 S/ KM", "T1 s/KM", "T1 S/ k.l.",
    "T1 voor contrast", "T1 geen contrast", "T1 nativně",
    "T1 przed kontrastem", "T1 kontrast öncesi", "T1 kontrastsız", "T1 KONTRASTSIZ", "T1 KONTRAST YOK",
    "T1 ei tehostetta", "T1 ennen tehostetta", "T1 tehosteetta", "T1 до контраста", "T1 平扫",
    "T1 造影前", "T1 造影なし",
    "T1 非造影", "T1 无增强", "T1 增强前", "T1 비조영", "T1 kontraszt nélkül", "T1 fără contrast",
    "T1 IV-", "T1 G-",
    "T1 0 ml Gd", "T1 KM 0ml", "T1 Gd 0,0 ml",
    "T1 não contrastado", "T1 ingen kontrast", "T1 b/k", "T1ohneKM", "ohneT1", "T1 χωρίς σκιαγραφικό",
]  # fmt: skip
MORE_UNKNOWN = [
    "T1 con y sin contraste", "T1 met en zonder contrast", "T1 с и без контраста", "T1 TFE SENSE", "T1 -C",
    "T1 o. KM", "T1 sense contrast", "T1 uten FS", "T1 basal ganglia", "T1 術後", "T1 sans FS",
    "T1 MPRAGE post - op", "T1 MPRAGE post- op", "T1 post/op", "T1 post - SRS", "T1 post op",
]  # fmt: skip
# By the group of their kind.
OTHER_KINDS = {
    "localizer": ["AAHScout", "AAHead_Scout_MPR", "localizer", "3-plane loc", "Survey", "ASSET calibration"],
    "field_map": ["gre_field_mapping", "Field Map", "fieldmap_AP", "fmap", "B0map", "B0 map", "tfl_b1map"],
    "diffusion": ["DWI b1000", "ep2d_diff_b1000_ADC", "isoDWI", "Ax DTI", "ADC (10^-6 mm²/s)", "TRACEW"],
    "susceptibility": ["SWI_Images", "SWAN", "T2* GRE", "T2 *", "SWI mIP"],
    "angiography": ["TOF 3D multi-slab", "MRA COW", "Angio 3D Gd", "CE-MRA"],
    "perfusion": ["T1 perf +C", "ep_perf +C", "DSC", "DCE T1 vibe", "pCASL", "relCBV"],
    "spectroscopy": ["T1 csi +C", "svs_se_135", "1H-MRS"],
    "map": ["T1 MAP", "T2 MAP", "t1map_ir", "T1 mapping", "quantitative T1"],
    "projection": ["T1 VIBE +C MIP", "MIP T1 post"],
    "gradient_echo": ["MPGR T2 Ax", "T2W_FFE", "AX T2 EG", "AX T2 ECHO DE GRADIENT", "t2_fl2d_hemo", "FGRE"],
    "proton_density": ["PD_TSE", "PD/T2"],
}  # fmt: skip


def words_of(*roles: str) -> list[str]:
    """The single words of all languages that have one of these roles in the shipped file."""
    languages = tomllib.loads(Path(series_names.WORDS_FILE).read_text())["words"].values()
    words = {word for groups in languages for role in roles for word in groups.get(role, ())}
    return sorted(word for word in words if " " not in word)


@pytest.mark.parametrize(("name", "sequence", "contrast"), TABLE)
def test_a_name_says_which_sequence_and_what_of_contrast(name, sequence, contrast):
    assert (read(name).sequence, read(name).contrast) == (sequence, contrast)


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        *((name, "proven") for name in MORE_PROVEN),
        *((name, "denied") for name in MORE_DENIED),
        *((name, "unknown") for name in MORE_UNKNOWN),
    ],
)
def test_contrast_is_told_in_many_languages(name, contrast):
    assert read(name).contrast == contrast


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for other, names in OTHER_KINDS.items() for name in names]
)
def test_other_kinds_of_images_are_told_from_the_usual_sequences(name, other):
    assert (read(name).sequence, read(name).other) == ("", other)


@pytest.mark.parametrize(
    "name", ["T1_FFE", "T1 EG", "t1_fl2d_tra", "T1 GRE", "Ax T1 FLAIR", "T1W_3D_TFE_SENSE"]
)
def test_a_gradient_echo_that_says_t1_is_one(name):
    assert read(name).sequence == "T1"


def spell(name: str, case: str, blank: str) -> str:
    changed = {
        "upper": name.upper(), "lower": name.lower(), "title": name.title(), "as it is": name,
        "turkish": name.replace("i", "ı"), "wide": name.replace("T1", "Ｔ１"),
    }  # fmt: skip
    return changed[case].replace(" ", blank)


@settings(max_examples=1500, deadline=None)
@given(
    name=st.sampled_from(PROVEN),
    negation=st.sampled_from(words_of("without", "not", "plain")),
    inflection=st.sampled_from(["", "e", "er", "en", "t", "a", "ом", "'"]),
    before=st.booleans(),
    between=st.sampled_from(["", " ", "_", "-", ".", ", ", " (", "/", " - ", ": ", "+"]),
    case=st.sampled_from(["upper", "lower", "title", "as it is", "turkish", "wide"]),
    blank=st.sampled_from([" ", "_", "", "-", "  "]),
)
def test_no_proof_of_contrast_survives_a_negation(  # noqa: PLR0917
    name, negation, inflection, before, between, case, blank
):
    negation += inflection
    negated = f"{negation}{between}{name}" if before else f"{name}{between}{negation}"
    assert read(spell(negated, case, blank)).contrast != "proven"


@pytest.mark.parametrize("agent", ["Gadovist", "8 ml Dotarem", "gadopentetate dimeglumine", "contrast", "KM"])
def test_no_agent_that_is_negated_is_one(agent):
    assert of_agent(agent) == "proven"
    negated = [
        value
        for negation in words_of("without", "not", "plain")
        for between in (" ", ", ", " (", " - ", ": ")
        for value in (f"{negation}{between}{agent}", f"{agent}{between}{negation}")
    ]
    assert [value for value in negated if of_agent(value) != "denied"] == []


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from([*PROVEN, "T1 contrast", "T1 post Gd", "AX T1 +C"]),
    word=st.text("qxzjvkбщ", min_size=4, max_size=9),
    place=st.integers(0, 4),
)
def test_a_word_that_is_not_understood_leaves_contrast_unproven(name, word, place):
    words = name.split()
    strange = " ".join([*words[:place], word, *words[place:]])
    assert read(strange).contrast == "unknown"
    assert word.casefold() in read(strange).not_understood


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_any_text_can_be_read(name):
    assert read(name).contrast in ("proven", "denied", "unknown")


def test_the_words_of_a_file_are_added(tmp_path):
    file = tmp_path / "words.toml"
    file.write_text(
        '[words.hu]\nwithout = ["hiányzó"]\nunderstood = ["Szent János"]\n[kinds]\nmap = ["mapa*"]\n'
    )
    assert read("T1 hiányzó Gd").contrast == "unknown"
    assert read("Szent János T1 Gd").contrast == "unknown"
    extended = series_names.load(file)
    assert extended.read("T1 HIÁNYZÓ Gd").contrast == "denied"
    assert extended.read("Szent János T1 Gd").contrast == "proven"
    assert extended.read("T1 mapa_x").other == "map"
    assert extended.read("T1 zonder contrast").contrast == "denied"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('[words.hu]\nohne = ["x"]', "ohne"), ("[words.hu]\nwithout = 3", "list of words"),
        ("[wrds]", "wrds"), ("[kinds]\nmaps = []", "maps"), ("without =", "value"), ("words = 3", "table"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_with_the_reason(tmp_path, content, fault):
    file = tmp_path / "words.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=fault):
        series_names.load(file)
