"""What the documents promise is what the code does: routes, settings, error codes."""

import json
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from openapi_spec_validator import validate

import errors
from api import create_app
from settings import Settings

ROOT = Path(__file__).parents[1]
API_DOCUMENT = (ROOT / "docs" / "api.md").read_text()
PUBLISHED = ROOT / "docs" / "openapi.json"
ASSETS = ("/static/", "/docs/")


@pytest.fixture(scope="module", params=[False, True], ids=["", "segmentationui"])
def app(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("data")
    return create_app(Settings(_env_file=None, data_dir=folder, segmentationui_api=request.param))


def routes_of(app):
    """(method, path) of every route, path parameters as {}."""
    return {
        (method, re.sub(r"<[^>]+>", "{}", rule.rule))
        for rule in app.url_map.iter_rules()
        if not rule.rule.startswith(ASSETS)
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def test_every_route_is_in_the_openapi_document_and_no_other(app):
    described = {
        (method.upper(), re.sub(r"{[^}]+}", "{}", path))
        for path, item in app.api_doc["paths"].items()
        for method in item
    }
    assert described == routes_of(app)


def test_every_route_is_in_the_markdown_and_no_other(app):
    rows = re.findall(r"^\| `([A-Z]+) (/[^`?]*)[^`]*` \|", API_DOCUMENT, re.MULTILINE)
    always = [row for row in rows if not row[1].startswith("/segmentationui/")]
    described = rows if "segmentationui" in app.blueprints else always
    assert {(method, re.sub(r"<[^>]+>", "{}", path)) for method, path in described} == routes_of(app)


def test_the_openapi_document_is_valid(app):
    validate(app.api_doc)
    assert app.api_doc["openapi"].startswith("3.1")


def without_words(node):
    """The same JSON without the descriptions, which may be reworded at any time."""
    if isinstance(node, dict):
        # A property may be called "description" too; what it describes is then no text.
        return {
            key: without_words(value)
            for key, value in node.items()
            if not (key in ("description", "summary") and isinstance(value, str))
        }
    return [without_words(item) for item in node] if isinstance(node, list) else node


def test_the_interface_is_the_published_one(app):
    """After an intended change: python -m tests.test_contracts writes docs/openapi.json again."""
    published = json.loads(PUBLISHED.read_text())
    if "segmentationui" not in app.blueprints:
        published["paths"] = {
            path: item for path, item in published["paths"].items() if not path.startswith("/segmentationui")
        }
        del published["components"]
    served = {key: app.api_doc[key] for key in published}
    assert without_words(served) == without_words(published)


def test_every_field_of_an_answer_is_named_in_the_markdown(app):
    for schema in app.api_doc["components"]["schemas"].values():
        for name in schema.get("properties", ()):
            assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", API_DOCUMENT), name


def classes(base=errors.MetScopeError):
    return [base, *(descendant for child in base.__subclasses__() for descendant in classes(child))]


def test_every_error_code_is_documented_with_its_status_and_exit_code():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (.+) \|$", API_DOCUMENT, re.MULTILINE)
    documented = {code: (int(status), int(exit_code), advice) for code, status, exit_code, advice in rows}
    assert documented == {error.code: (error.status, error.exit_code, error.advice) for error in classes()}


def test_no_two_errors_share_a_code():
    codes = [error.code for error in classes()]
    assert len(codes) == len(set(codes))


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    names = re.findall(r"[├└]── (\w+)", errors.__doc__)
    assert names == [error.__name__ for error in drawn_order(errors.MetScopeError)]


def drawn_order(base):
    return [descendant for child in base.__subclasses__() for descendant in (child, *drawn_order(child))]


def test_the_example_names_every_setting_with_its_default(monkeypatch):
    example = ROOT / ".env.example"
    names = re.findall(r"^([A-Z_]+)=", example.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=example) == Settings(_env_file=None)


def test_the_example_explains_every_setting():
    lines = (ROOT / ".env.example").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"[A-Z_]+=", line):
            assert before.startswith("#") or re.match(r"[A-Z_]+=", before), line


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings(_env_file=None, data_dir=folder, segmentationui_api=True)).api_doc
    PUBLISHED.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
