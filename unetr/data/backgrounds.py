"""Real heads of a folder as the background of drawn metastases."""

from collections.abc import Sequence
from pathlib import Path

from errors import DataRefused
from unetr.data.cases import CaseSource, RejectedCase
from unetr.data.datasets import sources
from unetr.synthesis import cohorts
from unetr.synthesis.metastases import Head
from unetr.synthesis.real_heads import RealHead


def backgrounds(folder: Path) -> list[CaseSource]:
    """Return the heads of a folder in the layout nnunet: T1 images with the brain as label 1.

    Raises: DataRefused if one of them cannot be used, or there is none.
    """
    entries = list(sources(folder, "nnunet"))
    if bad := next((entry for entry in entries if isinstance(entry, RejectedCase)), None):
        raise DataRefused(f"{bad.id}: {bad.reason}")
    heads = [entry for entry in entries if isinstance(entry, CaseSource)]
    if not heads:
        raise DataRefused(f"{folder.name} contains no heads.")
    return heads


def metastases_in(heads: Sequence[CaseSource], seed: int) -> Head:
    """Return metastases of that seed, drawn into one of the real heads as for training."""
    background = heads[seed % len(heads)].read()
    (image,) = background.images.values()
    return cohorts.real_training_head(RealHead(image, background.truth), seed)
