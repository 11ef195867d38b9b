"""The model, step by step: ``python -m unetr STEP --help``."""

import sys
from importlib import import_module

from errors import MetScopeError

# Module and function of each step; a module is imported only when its step runs.
STEPS = {
    "check": ("unetr.tutorial", "check"),
    "explore": ("unetr.data.explore", "main"),
    "pipeline": ("unetr.tutorial", "pipeline"),
    "build": ("unetr.tutorial", "build"),
    "train": ("unetr.training.train", "main"),
    "adapt": ("unetr.training.adapt", "main"),
    "export": ("unetr.training.export", "main"),
    "import": ("unetr.import_checkpoint", "main"),
    "operating_point": ("unetr.evaluation.operating_point", "main"),
    "evaluate": ("unetr.evaluation.evaluate", "main"),
    "infer": ("unetr.tutorial", "infer"),
    "visualize": ("unetr.tutorial", "visualize"),
    "download_msd": ("unetr.data.download_msd", "main"),
}


def main() -> int:
    """Run the step that the first argument names and return the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    usage = f"usage: python -m unetr {{{'|'.join(STEPS)}}} …"
    if name in {"-h", "--help"}:
        print(f"{usage}\n\nThe model, step by step; python -m unetr STEP --help explains a step.")
        return 0
    if name not in STEPS:
        print(usage, file=sys.stderr)
        return 2
    module, function = STEPS[name]
    try:
        return getattr(import_module(module), function)(sys.argv[2:]) or 0
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
