"""The trail of changes: who did what to what, written in the transaction of the change itself."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from db.tables import AuditEvent


def note(session: Session, actor: str | None, action: str, subject: str, **details: Any) -> None:
    """One row. subject: the id or name of what was changed. Neither it nor details hold patient data."""
    session.add(
        AuditEvent(at=datetime.now(UTC), actor=actor, action=action, subject=subject, details=details)
    )
