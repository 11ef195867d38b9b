"""The form of all error answers."""

from typing import Any

from pydantic import Field

from schemas.common import Answer


class ErrorBody(Answer):
    """An error's code, message and details."""

    code: str = Field(description="Stable; listed in docs/api.md")
    message: str
    details: dict[str, Any]


class ErrorAnswer(Answer):
    """The answer to every request that fails."""

    error: ErrorBody
