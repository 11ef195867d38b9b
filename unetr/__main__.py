"""The model, step by step: ``python -m unetr STEP --help``."""

import sys
from importlib import import_module

from errors import MetScopeError

STEPS = ("explore", "train", "export", "evaluate", "operating_point", "download_msd")


def main() -> int:
    """Run the step that the first argument names; returns the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in STEPS:
        print(f"usage: python -m unetr {{{'|'.join(STEPS)}}} …", file=sys.stderr)
        return 2
    try:
        return import_module(f"unetr.{name}").main(sys.argv[2:]) or 0
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
