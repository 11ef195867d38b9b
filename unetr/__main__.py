"""The model, step by step: ``python -m unetr STEP --help``."""

import sys

from unetr import export, train

STEPS = {"train": train.main, "export": export.main}


def main() -> int:
    """Run the step that the first argument names; returns the exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in STEPS:
        print(f"usage: python -m unetr {{{'|'.join(STEPS)}}} …", file=sys.stderr)
        return 2
    STEPS[sys.argv[1]](sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
