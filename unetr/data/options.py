"""The options of a command line that select a folder's labels."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Literal


def add_labels_option(parser: argparse.ArgumentParser) -> None:
    """Add --labels, a list of texts for ``label_values``."""
    parser.add_argument(
        "--labels", nargs="+", default=[], metavar="OLD=NEW", help="4=3 renames, 2=0 drops; or: merge"
    )


def label_values(texts: Sequence[str]) -> Mapping[int, int] | Literal["merge"]:
    """Parse new label values: ["merge"], or ["4=3", "2=0"]. Raises: ValueError."""
    if list(texts) == ["merge"]:
        return "merge"
    pairs = (text.split("=") for text in texts)
    return {int(old): int(new) for old, new in pairs}
