"""The rules of docs/architecture.md: layers, what may be imported where, what loads torch."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench import source_figures

ROOT = Path(__file__).parents[1]
LAYERS = {
    "errors": 0, "logs": 0, "names": 0, "series_names": 0, "supervisor": 0, "version": 0,
    "imaging": 1, "settings": 1,
    "lesions": 2,
    "schemas": 3,
    "reports": 4,
    "unetr": 5, "orthanc": 5, "db": 5, "broker": 5,
    "context": 6, "findings": 6, "submission": 6, "access": 6, "metrics": 6, "health": 6,
    "segmentation": 7, "result_files": 7, "lease": 7,
    "cli": 8, "tasks": 8, "routes": 8, "demo": 8,
    "worker": 9, "api": 9,
}  # fmt: skip
# What `python -m orthanc` runs is a command: it may use the other modules of its layer.
COMMAND_LAYER = 6
HEAVY = {"flask", "sqlalchemy", "requests", "torch"}
LOADED_BY_HIGHDICOM = {"requests"}


def sources() -> list[Path]:
    modules = [ROOT / f"{name}.py" for name in LAYERS if (ROOT / f"{name}.py").exists()]
    for name in LAYERS:
        modules += sorted((ROOT / name).rglob("*.py"))
    return modules


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    modules = set()
    tree = ast.parse(path.read_text())
    # Started as a command, a file may use the layers above it.
    tree.body = [node for node in tree.body if "__name__ ==" not in ast.unparse(node).split("\n")[0]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            modules.add((node.module or "").split(".")[0])
    return modules


def test_every_python_module_has_a_layer():
    modules = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py"}
    modules |= {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert modules - set(LAYERS) == set()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_layers(path):
    module = module_of(path)
    layer = COMMAND_LAYER if path.name == "__main__.py" else LAYERS[module]
    for target in imports_of(path) & set(LAYERS):
        assert target == module or LAYERS[target] < layer, f"{module} imports {target}"


def test_no_module_imports_itself_by_way_of_others():
    """Imports inside functions do not count: they run when everything is loaded."""
    files = [source_figures.measure_file(ROOT, path) for path in source_figures.sources(ROOT)]
    assert source_figures.cycles(sum(files, source_figures.Figures())) == set()


@pytest.mark.parametrize("figure", source_figures.LIMITS)
def test_the_source_keeps_its_limits(figure):
    _, total = source_figures.measure(ROOT)
    if figure in source_figures.AT_LEAST:
        assert total[figure] >= source_figures.LIMITS[figure]
    else:
        assert total[figure] <= source_figures.LIMITS[figure]


@pytest.mark.parametrize("module", ["imaging", "lesions"])
def test_imaging_and_lesions_load_no_web_database_network_or_torch(module):
    modules = [
        p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for p in (ROOT / module).glob("*.py")
    ]
    loading = "; ".join(f"import {module}" for module in modules)
    code = f"import sys; {loading}; print(*({HEAVY - LOADED_BY_HIGHDICOM!r} & set(sys.modules)))"
    assert python(code) == ""
    for path in (ROOT / module).glob("*.py"):
        assert imports_of(path) & HEAVY == set(), path


def test_importing_the_api_loads_no_torch():
    assert python("import sys, api; print(*({'torch', 'openvino'} & set(sys.modules)))") == ""


def test_a_served_model_loads_nothing_of_how_it_was_made():
    """Neither synthetic studies nor data sets, training or evaluation."""
    made_by = tuple(f"unetr.{path.parent.name}" for path in sorted((ROOT / "unetr").glob("*/__init__.py")))
    assert len(made_by) == 4
    code = f"import sys, api, worker; print(*(name for name in sys.modules if name.startswith({made_by!r})))"
    assert python(code) == ""


def test_what_the_make_targets_run_needs_only_requirements_txt():
    """demo, serve and viewer are set up without the tools of requirements-dev.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if "==" in line}
    code = "print(*{getattr(module, '__file__', None) or '' for module in sys.modules.values()})"
    files = python(f"import sys, demo, api, worker, bench.viewer; {code}").split()
    ours = [path for path in map(Path, files) if path.is_relative_to(ROOT) and ".venv" not in path.parts]
    assert len(ours) > 50
    owners = metadata.packages_distributions()
    foreign = {name for path in ours for name in imports_of(path)} - sys.stdlib_module_names - set(LAYERS)
    missing = {name for name in foreign - {"bench"} if not set(map(canonicalize_name, owners[name])) & pinned}
    assert missing == set()


COMMANDS = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (*ROOT.glob("*.py"), *(ROOT / "bench").glob("*.py"), *ROOT.glob("*/__main__.py"))
    # Of the programs this one is left out, which needs a package that nothing else does.
    if ("__name__ ==" in path.read_text() or path.name == "__main__.py") and path.stem != "faster"
]


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_that_is_asked_for_help_says_what_it_does_and_does_nothing(module, tmp_path):
    command = [sys.executable, "-m", module.removesuffix(".__main__"), "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    # More than the names of its options.
    assert re.search(r"^[A-Z].{20,}", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


# What lies in a working folder by our own instructions (docs/operations.md), and is nobody else's business.
PRIVATE = (
    ".env", "certs/certificate.pem", "certs/key.pem", "orthanc/certs/key.pem", "metscope.backup", "notes.pdf",
    "data/first.token", "data/metscope.sqlite", "db/metscope.sqlite", "db/metscope.sqlite-wal",
    "demo/series/1.dcm", "images/head.nii.gz", "unetr/weights/head.dcm", "real/truth.json",
)  # fmt: skip
# Programs that run in the image, and what they read there.
IN_THE_IMAGE = (
    "requirements.txt", "series_names.toml", "orthanc/init.sh", "ohif/extension.js", "ohif/fetch.sh",
    "ohif/package.json",
    "db/migrations/script.py.mako", "reports/templates/login.html", "unetr/configs/metscope-unet.yaml",
    "unetr/weights/metscope-unet.json",
    "unetr/weights/metscope-unet.safetensors", "unetr/weights/metscope-unet.golden.npy",
)  # fmt: skip


def test_git_takes_every_source_and_nothing_private(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    modules = [*sources(), *(ROOT / "bench").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    names = [path.relative_to(ROOT).as_posix() for path in modules]
    listing = "\n".join((*names, *IN_THE_IMAGE, *PRIVATE))
    done = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--stdin"],
        input=listing, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == set(PRIVATE)


def test_the_image_gets_every_module_and_nothing_private(tmp_path):
    needed = {*(path.relative_to(ROOT).as_posix() for path in sources()), *IN_THE_IMAGE}
    for name in (*needed, *PRIVATE, "tests/test_architecture.py", ".git/config", ".venv/pyvenv.cfg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # By the matcher of Debian's docker-compose, which reads .dockerignore as the engine does.
    code = (
        "import sys; from docker.utils.build import exclude_paths; "
        "print(*exclude_paths(sys.argv[1], open('.dockerignore').read().splitlines()), sep='\\n')"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name for name in done.stdout.split("\n") if (tmp_path / name).is_file()} == needed


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
