"""The long measurements behind what the documents claim: `make accept` writes docs/acceptance.md.

Each part is a command that anyone can run by itself; its last lines go into the document.
"""

import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path("docs/acceptance.md")


@dataclass(frozen=True)
class Part:
    """title, the arguments after `python`, and how many of the last lines to keep."""

    title: str
    arguments: tuple[str, ...]
    lines: int


PARTS = (
    Part("The main job on a synthetic study", ("demo.py",), 40),
    Part("Held-out heads", ("-m", "bench.heldout", "--heads", "30"), 14),
    Part("Measurement of spheres and ellipsoids", ("-m", "bench.metrology"), 40),
    Part(
        "Geometry, PACS to PACS, and the command line",
        ("-m", "pytest", "-v", "tests/test_segmentation.py"),
        40,
    ),
    Part("Refusals", ("-m", "pytest", "-v", "tests/imaging/test_stack.py", "-k", "refused"), 24),
    Part("SEG by other tools' readers", ("-m", "pytest", "-v", "tests/imaging/test_seg.py"), 60),
    Part("Service, killed worker, zero lesions", ("-m", "pytest", "-v", "tests/test_api.py"), 32),
    Part("Roles by route", ("-m", "pytest", "-v", "tests/test_access.py"), 24),
    Part("The stack behind nginx", ("-m", "pytest", "-v", "tests/test_stack.py"), 44),
)


def main() -> int:
    """Run every part; the exit status is 1 if one of them failed."""
    sections = []
    failed = False
    for part in PARTS:
        started = time.perf_counter()
        done = subprocess.run([sys.executable, *part.arguments], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        failed |= done.returncode != 0
        kept = "\n".join(done.stdout.rstrip().splitlines()[-part.lines :])
        command = " ".join(("python", *part.arguments))
        outcome = f"exit status {done.returncode}, {seconds:.0f} s"
        sections.append(f"## {part.title}\n\n`{command}`: {outcome}\n\n```\n{kept}\n```\n")
        print(f"{part.title}: {outcome}", flush=True)
    machine = f"{platform.system()}, Python {platform.python_version()}, {platform.machine()}"
    heading = f"# Acceptance\n\nWritten by `make accept` on {time.strftime('%Y-%m-%d')} ({machine}).\n\n"
    DOCUMENT.write_text(heading + "\n".join(sections), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
