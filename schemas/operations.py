"""Whether the service lives and is ready; who did what."""

from datetime import datetime
from typing import Any, Literal

from pydantic import (
    Field,
)

from schemas.common import LARGEST_ID, Answer, Form, Moment, Query, Text


class RolePath(Form):
    role: Literal["reader", "operator", "admin"]


class AuditQuery(Query):
    actor: Text | None = Field(None, description="Name of a token, or the user of a command line")
    action: Text | None = Field(None, description="As job.request or segmentation.read")
    subject: Text | None = Field(None, description="Id or name of what was changed or read")
    kind: Literal["read", "change"] | None = Field(None, description="Reads of patient data, or changes")
    since: Moment | None = Field(None, description="Events from this time on, with its time zone")
    until: Moment | None = Field(None, description="Events before this time, with its time zone")
    before: int | None = Field(
        None, ge=1, le=LARGEST_ID, description="next_before of the page before this one"
    )
    limit: int = Field(50, ge=1, le=500)


class AuditEventAnswer(Answer):
    """Who did what to what, or read it. actor: null for MetScope itself."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str
    details: dict[str, Any]


class AuditAnswer(Answer):
    """The newest first. next_before: asks for the next page as ``before``; null on the last."""

    events: list[AuditEventAnswer]
    next_before: int | None


class LiveAnswer(Answer):
    live: Literal[True]


class CheckAnswer(Answer):
    ok: bool
    reason: str | None


class ReadyAnswer(Answer):
    """ready: every check is ok; an ok one may have a reason too, to look into. loaded_models: those that a
    worker holds in memory.
    """

    ready: bool
    checks: dict[Literal["database", "archive", "broker", "data", "models", "worker"], CheckAnswer]
    loaded_models: list[str]
