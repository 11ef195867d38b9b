"""The long measurements behind the claims of the documentation: `make accept` writes docs/acceptance.md.

Each part is a command that can also be run by itself; its last lines go into the document. With titles,
`python -m bench.accept Faults "Under load"`, only those parts run, and the other sections are kept.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path("docs/acceptance.md")


@dataclass(frozen=True)
class Part:
    """A part: its title, its command (python is this interpreter), and how many of its last lines to keep."""

    title: str
    command: tuple[str, ...]
    lines: int


FROM_NOTHING = (
    'clone=$(mktemp -d) && trap \'rm -rf "$clone"\' EXIT && git clone -q . "$clone" && cd "$clone" '
    "&& started=$(date +%s) && make --no-print-directory demo && echo whole: $(($(date +%s) - started)) s"
)
PARTS = (
    Part("The main job from nothing: a fresh clone and a new environment", ("sh", "-c", FROM_NOTHING), 24),
    Part("The main job again, warm", ("python", "demo.py"), 24),
    Part("Held-out heads", ("python", "-m", "bench.goal"), 44),
    Part("Sizes a hospital has", ("python", "-m", "bench.sizes"), 8),
    Part("Measurement of spheres and ellipsoids", ("python", "-m", "bench.metrology"), 40),
    Part(
        "Geometry, PACS to PACS",
        ("python", "-m", "pytest", "-sq", "tests/test_segmentation.py", "-k", "nothing_moves"),
        70,
    ),
    Part(
        "Command line",
        (
            "python",
            "-m",
            "pytest",
            "-v",
            "--no-header",
            "tests/test_segmentation.py",
            "-k",
            "not nothing_moves",
        ),
        40,
    ),
    Part(
        "Refusals",
        ("python", "-m", "pytest", "-sq", "tests/imaging/test_stack.py", "-k", "with_its_fault"),
        40,
    ),
    Part(
        "SEG by other tools' readers",
        ("python", "-m", "pytest", "-v", "--no-header", "tests/imaging/test_seg.py"),
        60,
    ),
    Part(
        "Service, killed worker, zero lesions",
        ("python", "-m", "pytest", "-v", "--no-header", "tests/test_api.py"),
        32,
    ),
    Part(
        "Faults",
        ("python", "-m", "pytest", "-sq", "-m", "long or not long", "tests/test_faults.py"),
        80,
    ),
    Part("Attacks and faults", ("python", "-m", "bench.attacks"), 120),
    Part("Random faults", ("python", "-m", "bench.chaos"), 8),
    Part("DICOM edge cases", ("python", "-m", "pytest", "-sq", "tests/test_edge_cases.py"), 90),
    Part("Uploads", ("python", "-m", "pytest", "-sq", "tests/imaging/test_uploads.py", "-k", "bomb"), 40),
    Part("Generated requests", ("python", "-m", "bench.fuzz"), 12),
    Part("Under load", ("python", "-m", "bench.load"), 12),
    Part("Click to overlay in the viewer", ("python", "-m", "bench.click"), 8),
    Part("What the service adds to a job", ("python", "-m", "bench.overhead"), 6),
    Part("Roles by route", ("python", "-m", "pytest", "-v", "--no-header", "tests/test_access.py"), 24),
    Part(
        "The stack behind nginx", ("python", "-m", "pytest", "-v", "--no-header", "tests/test_stack.py"), 44
    ),
)


def run(part: Part) -> tuple[str, bool]:
    """Run the part; return its section of the document and whether it passed."""
    started = time.perf_counter()
    program = sys.executable if part.command[0] == "python" else part.command[0]
    done = subprocess.run([program, *part.command[1:]], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    printed = done.stdout.replace(f"{Path.cwd()}/", "").rstrip()
    kept = "\n".join(printed.splitlines()[-part.lines :])
    outcome = f"exit status {done.returncode}, {seconds:.0f} s, on {time.strftime('%Y-%m-%d')}"
    print(f"{part.title}: {outcome}", flush=True)
    return f"`{' '.join(part.command)}`: {outcome}\n\n```\n{kept}\n```\n", done.returncode == 0


def main(titles: Sequence[str]) -> int:
    """Run the parts with these titles, or all parts; return exit status 1 if one of them failed."""
    known = [part.title for part in PARTS]
    if unknown := set(titles) - set(known):
        print(f"no part {sorted(unknown)}; there are {known}", file=sys.stderr)
        return 2
    text = DOCUMENT.read_text(encoding="utf-8")
    sections = dict(section.split("\n\n", 1) for section in text.split("\n## ")[1:])
    machine = f"{platform.system()}, Python {platform.python_version()}, {platform.machine()}"
    named = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    heading = (
        f"# Acceptance\n\nWritten by `make accept` ({machine}), last at commit {named.stdout.strip()}.\n"
    )
    passed = True
    for part in PARTS:
        if titles and part.title not in titles:
            continue
        sections[part.title], part_passed = run(part)
        passed &= part_passed
        # Written after each part, so that an interruption does not lose hours of measurements.
        written = [f"\n## {title}\n\n{sections[title]}" for title in known if title in sections]
        DOCUMENT.write_text(heading + "".join(written), encoding="utf-8")
    return int(not passed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the long measurements and write docs/acceptance.md.")
    parser.add_argument("titles", nargs="*", metavar="TITLE", help="of a part; without any, all parts run")
    sys.exit(main(parser.parse_args().titles))
