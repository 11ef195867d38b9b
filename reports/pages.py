"""HTML pages that need no other file: templates filled with escaped values, pictures as data URIs."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """Return a page. template: a file of ``templates``; values: its variables, which are escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(values)


def data_uri(media_type: str, content: bytes) -> str:
    """Return a picture as a data URI, e.g. of image/png."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
