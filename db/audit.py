"""The trail of changes: who did what to what, written in the transaction of the change itself."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db.database import reading
from db.tables import AuditEvent


def note(session: Session, actor: str | None, action: str, subject: str, **details: Any) -> None:
    """One row. subject: the id or name of what was changed. Neither it nor details hold patient data."""
    session.add(
        AuditEvent(at=datetime.now(UTC), actor=actor, action=action, subject=subject, details=details)
    )


def events(
    sessions: sessionmaker[Session],
    limit: int,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    **equal: str | None,
) -> list[AuditEvent]:
    """Return the newest events.

    before: only those with a smaller id. since, until: only those from the one on and before the other.
    equal: only those whose column, as actor, action and subject, has this value; None: any.
    """
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEvent.id < before)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    if until is not None:
        query = query.where(AuditEvent.at < until)
    query = query.filter_by(**{column: value for column, value in equal.items() if value is not None})
    with reading(sessions) as session:
        return list(session.scalars(query))
