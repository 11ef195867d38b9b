"""Stand-in until the kinds of heads are merged."""

from unetr import synth

VALIDATION_SEED = 2_000_000
HELD_OUT_SEED = 3_000_000
KINDS = {
    "ordinary": ((176, 256, 256), (1.0, 0.94, 0.94), "axial", (2, 12)),
    "sagittal": ((170, 240, 240), (1.0, 1.0, 1.0), "sagittal", (2, 12)),
    "thick slices": ((60, 256, 256), (3.0, 0.9, 0.9), "axial", (2, 12)),
    "no lesion": ((120, 200, 200), (1.6, 1.1, 1.1), "coronal", (0, 0)),
}


def head(kind: str, seed: int) -> synth.Head:
    """The head of that kind and seed."""
    shape, spacing, plane, count = KINDS[kind]
    return synth.head(synth.grid(shape, spacing, plane), seed, synth.HeadOptions(lesion_count=count))


def training_head(seed: int) -> synth.Head:
    """A head to train on."""
    return head(tuple(KINDS)[seed % len(KINDS)], seed)
