"""The root of the error classes."""

from collections.abc import Iterator, Mapping
from typing import ClassVar


class MetScopeError(Exception):
    """Base of all errors. ``details`` holds JSON-able facts and never patient data."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1
    advice: ClassVar[str] = "Contact your MetScope administrator."

    def __init__(self, found: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(found)
        self.problem = found
        self.details = dict(details or {})

    @property
    def message(self) -> str:
        """Return what happened, then what to do about it."""
        return f"{self.problem.rstrip()} {self.advice}"


class SettingsError(MetScopeError):
    """Raised when a setting cannot be used; MetScope does not start."""

    code = "settings_invalid"
    exit_code = 2
    advice = "Correct it in .env or in the environment and start again."


def error_from_code(code: str, message: str) -> MetScopeError:
    """Return the error that a job's row records by code and message."""
    kind = next((kind for kind in _tree(MetScopeError) if kind.code == code), MetScopeError)
    return kind(message.removesuffix(kind.advice))


def _tree(base: type[MetScopeError]) -> Iterator[type[MetScopeError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)
