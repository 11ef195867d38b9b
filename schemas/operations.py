"""The forms and answers for health checks, the audit trail and a proxy's access check."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from schemas.common import MAX_ROW_ID, Answer, Form, Moment, Query, Text


class RolePath(Form):
    """A role."""

    role: Literal["reader", "operator", "admin"]


class AuditQuery(Query):
    """The audit events to list."""

    actor: Text | None = Field(None, description="Name of a token, or the user of a command line")
    action: Text | None = Field(None, description="For example job.request or segmentation.read")
    subject: Text | None = Field(None, description="Id or name of the object that was changed or read")
    kind: Literal["read", "change"] | None = Field(None, description="Reads of patient data, or changes")
    since: Moment | None = Field(None, description="Events from this time on, with its time zone")
    until: Moment | None = Field(None, description="Events before this time, with its time zone")
    before: int | None = Field(
        None, ge=1, le=MAX_ROW_ID, description="next_before of the page before this one"
    )
    limit: int = Field(50, ge=1, le=500)


class AuditEventAnswer(Answer):
    """An audit event: who changed or read what. actor: null for MetScope itself."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str
    details: dict[str, Any]


class AuditAnswer(Answer):
    """Audit events, newest first. next_before: ``before`` of the next page; null on the last page."""

    events: list[AuditEventAnswer]
    next_before: int | None


class LiveAnswer(Answer):
    """The API is running."""

    live: Literal[True]


class CheckAnswer(Answer):
    """The result of one health check."""

    ok: bool
    reason: str | None


class ReadyAnswer(Answer):
    """The health of the service. ready: all checks are ok; one that is ok may still give a reason.

    loaded_models: the models that workers hold in memory.
    """

    ready: bool
    checks: dict[Literal["database", "archive", "broker", "data", "models", "worker"], CheckAnswer]
    loaded_models: list[str]
