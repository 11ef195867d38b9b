"""The options that choose the cases of an evaluation: a folder of labelled studies, else synthetic heads."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from unetr.data.cases import LabelSelection
from unetr.data.datasets import LAYOUTS
from unetr.data.options import add_labels_option, label_values

FOLDER_OPTIONS = "--folder and --layout"


def parse_with_folder(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, heads: Mapping[str, object]
) -> argparse.Namespace:
    """Add --folder, --layout and --labels, and parse the arguments; labels become values by the old ones.

    heads: defaults of the parser's options about synthetic heads, which must not be given with a folder; the
    parser's own default of them is None. Contradictions end the program with status 2.
    """
    parser.add_argument("--folder", type=Path, help="labelled studies; without it, synthetic heads")
    parser.add_argument("--layout", choices=[*LAYOUTS], help="of the folder (docs/training.md)")
    add_labels_option(parser)
    options = parser.parse_args(arguments)
    head_options = [name for name in heads if getattr(options, name) is not None]
    if (options.folder is None) != (options.layout is None):
        parser.error(f"{FOLDER_OPTIONS} belong together")
    if options.folder is None and options.labels:
        parser.error(f"--labels belongs to {FOLDER_OPTIONS}")
    if options.folder is not None and head_options:
        option = head_options[0].replace("_", "-")
        parser.error(
            f"--{option} chooses synthetic heads and --folder labelled studies: leave out one of them"
        )
    try:
        options.labels = LabelSelection(label_values(options.labels)).labels
    except ValueError as error:
        parser.error(f"--labels: {error}")
    for name, default in heads.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options
