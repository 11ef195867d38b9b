"""The one shape of every error."""

from typing import Any

from pydantic import (
    Field,
)

from schemas.common import Answer


class ErrorBody(Answer):
    code: str = Field(description="Stable; listed in docs/api.md")
    message: str
    details: dict[str, Any]


class ErrorAnswer(Answer):
    """The one shape of every error."""

    error: ErrorBody
