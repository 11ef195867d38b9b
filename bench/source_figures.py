"""Figures of the source of a checkout: sizes, documentation and typing, per package and in total.

    python -m bench.source_figures [FOLDER]

tests/test_architecture.py keeps them within ``LIMITS``.
"""

import argparse
import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Largest values allowed, smallest for those that end in _share.
LIMITS = {
    "longest_file": 400, "longest_function": 60, "most_files_in_a_folder": 22, "any_percent": 1.0,
    "class_names_twice": 0, "import_cycles": 0,
    "documented_classes_percent": 100.0, "verb_first_percent": 90.0,
}  # fmt: skip
AT_LEAST = {"documented_classes_percent", "verb_first_percent"}
# Docstrings that open with one of these have no verb first.
NO_VERBS = {
    "a", "about", "after", "all", "an", "another", "as", "at", "before", "by", "each", "every", "for",
    "from", "his", "how", "in", "its", "like", "more", "no", "none", "nothing", "of", "on", "one", "only",
    "over", "several", "so", "the", "their", "these", "this", "those", "two", "under", "what", "when",
    "where", "whether", "which", "who", "with", "within", "without",
}  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """The counts of some files; ``+`` adds those of others."""

    files: int = 0
    lines: int = 0
    longest_file: tuple[int, str] = (0, "")
    longest_function: tuple[int, str] = (0, "")
    classes: Counter[str] = field(default_factory=Counter)
    documented: int = 0
    docstrings: int = 0
    verb_first: int = 0
    annotations: int = 0
    any_annotations: int = 0
    imports: dict[str, set[str]] = field(default_factory=dict)

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            self.files + other.files,
            self.lines + other.lines,
            max(self.longest_file, other.longest_file),
            max(self.longest_function, other.longest_function),
            self.classes + other.classes,
            self.documented + other.documented,
            self.docstrings + other.docstrings,
            self.verb_first + other.verb_first,
            self.annotations + other.annotations,
            self.any_annotations + other.any_annotations,
            self.imports | other.imports,
        )


def sources(folder: Path) -> list[Path]:
    """Return the Python files that git knows, without tests, bench and migrations, relative to the folder."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()
    return [Path(name) for name in listed if not re.match(r"tests/|bench/|.*/migrations/", name)]


def measure_file(folder: Path, path: Path) -> Figures:
    """Count one file."""
    text = (folder / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.count("\n")
    figures = Figures(1, lines, (lines, str(path)), imports={_module(path): _imports(tree)})
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            figures.classes[node.name] += 1
            figures.documented += ast.get_docstring(node) is not None
        elif isinstance(node, Function):
            _count_function(node, path, figures)
    return figures


def _count_function(node: Function, path: Path, figures: Figures) -> None:
    docstring = ast.get_docstring(node)
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    length -= docstring.count("\n") + 1 if docstring else 0
    figures.longest_function = max(figures.longest_function, (length, f"{path}:{node.name}"))
    if docstring and (word := re.match(r"\W*([A-Za-z]+)", docstring)):
        figures.docstrings += 1
        figures.verb_first += word[1].lower() not in NO_VERBS
    annotations = [a.annotation for a in _arguments(node.args) if a.annotation] + [node.returns]
    figures.annotations += len(annotations)
    figures.any_annotations += sum(_says_any(annotation) for annotation in annotations)


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (argument for argument in (arguments.vararg, arguments.kwarg) if argument)


def _says_any(annotation: ast.expr | None) -> bool:
    """Return whether the annotation leaves a type open; that of numpy's and SQLAlchemy's elements may be."""
    if annotation is None:
        return False
    text = re.sub(r"\b(NDArray|integer|Row|Select|ColumnElement)\[Any\]", "", ast.unparse(annotation))
    return re.search(r"\bAny\b", text) is not None


def _module(path: Path) -> str:
    return path.with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")


def _imports(tree: ast.Module) -> set[str]:
    """Return the modules that a file imports when it is loaded, by their full names."""
    modules = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def cycles(figures: Figures) -> set[str]:
    """Return the modules that import themselves by way of others."""
    known = figures.imports.keys()
    left = {name: (modules & known) - {name} for name, modules in figures.imports.items()}
    while leaves := {name for name, modules in left.items() if not modules}:
        left = {name: modules - leaves for name, modules in left.items() if name not in leaves}
    return set(left)


def summary(figures: Figures, paths: Sequence[Path]) -> dict[str, float]:
    """Return what ``LIMITS`` limits."""
    return {
        "longest_file": figures.longest_file[0],
        "longest_function": figures.longest_function[0],
        "most_files_in_a_folder": max(Counter(path.parent for path in paths).values()),
        "any_percent": 100 * figures.any_annotations / figures.annotations,
        "class_names_twice": sum(count > 1 for count in figures.classes.values()),
        "import_cycles": len(cycles(figures)),
        "documented_classes_percent": 100 * figures.documented / figures.classes.total(),
        "verb_first_percent": 100 * figures.verb_first / figures.docstrings,
    }


def measure(folder: Path) -> tuple[dict[str, Figures], dict[str, float]]:
    """Return the figures of each package, and the summary of all."""
    paths = sources(folder)
    packages: dict[str, Figures] = {}
    for path in paths:
        package = f"{path.parts[0]}/" if len(path.parts) > 1 else "(top level)"
        packages[package] = packages.get(package, Figures()) + measure_file(folder, path)
    return packages, summary(sum(packages.values(), Figures()), paths)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Print figures of the source of a checkout.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER")
    packages, total = measure(parser.parse_args().folder)
    print(f"{'package':14}{'files':>6}{'lines':>7}  longest file, longest function")
    for name, package in sorted(packages.items()):
        (lines, file), (length, function) = package.longest_file, package.longest_function
        print(f"{name:14}{package.files:6}{package.lines:7}  {file} {lines}, {function} {length}")
    print(f"{'all':14}{sum(r.files for r in packages.values()):6}{sum(r.lines for r in packages.values()):7}")
    for name, value in total.items():
        print(f"{name:28}{value:8.3g}  {'at least' if name in AT_LEAST else 'at most'} {LIMITS[name]:g}")


if __name__ == "__main__":
    main()
