"""Names that people give to lesions, labels, users and tokens: what they may hold."""

import re
import unicodedata

# Between the brackets of a regular expression: control characters, line and paragraph separators, and the
# characters that turn the direction of the text around them. Letters have a direction of their own, so a name
# in Arabic or Hebrew needs none of these. It may need the marks U+200E, U+200F and U+061C, which are allowed.
REFUSED = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
# In a DICOM text a backslash separates values.
DICOM_NAME = rf"^[^{REFUSED}\\]*$"
# Surrogates are bytes that were not UTF-8.
UNFIT = re.compile(rf"[{REFUSED}\ud800-\udfff]")
# Unicode categories of letters, numbers, punctuation and symbols; and those of them that show nothing.
VISIBLE_CATEGORIES = ("L", "N", "P", "S")
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"


def is_name(name: str) -> bool:
    """Return whether a text is a name: one line, of which something is visible."""
    return UNFIT.search(name) is None and is_visible(name)


def is_visible(name: str) -> bool:
    """Return whether a text shows anything."""
    return any(
        unicodedata.category(letter)[0] in VISIBLE_CATEGORIES and letter not in BLANKS for letter in name
    )


def require_visible(name: str) -> str:
    """Return the name. Raises: ValueError if it shows nothing."""
    if not is_visible(name):
        raise ValueError("the name has no visible character")
    return name


def plain(name: str, special: str = "") -> str:
    """Return a name without what no name may hold and without ``special``, which DICOM would interpret."""
    return UNFIT.sub(" ", name).translate(dict.fromkeys(map(ord, special), " ")).strip()


def label(text: str) -> str:
    """Return the name in a DICOM label by any tool; empty if it shows nothing."""
    name = plain(text, "\\")
    return name if is_visible(name) else ""
