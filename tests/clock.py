"""Time that passes without waiting: what jobs and workers have noted moves into the past."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db.database import writing
from db.tables import Job, Worker

TIMES = {
    Job: ("lease_expires_at", "heartbeat_at", "not_before", "queued_at", "started_at", "created_at"),
    Worker: ("started_at", "seen_at"),
}


@contextmanager
def later(sessions: sessionmaker[Session], seconds: float) -> Iterator[None]:
    """As if it were so many seconds later. Negative: as if the database's clock had been set back."""
    _move(sessions, -seconds)
    yield
    _move(sessions, seconds)


def _move(sessions: sessionmaker[Session], seconds: float) -> None:
    with writing(sessions) as session:
        for table, names in TIMES.items():
            for row in session.scalars(select(table)):
                for name in names:
                    if (time := getattr(row, name)) is not None:
                        setattr(row, name, time + timedelta(seconds=seconds))
