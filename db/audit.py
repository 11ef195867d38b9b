"""The audit trail: who changed what, and who read which patient data.

A change is noted in its own transaction, a read soon after.
"""

import atexit
import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session, sessionmaker

from db.database import reading, writing
from db.tables import AuditEvent

# Names of reads end with it; names of changes do not.
READ = ".read"
PERIOD_S = 1.0
MAX_WAITING_READS = 10_000

logger = logging.getLogger("metscope.audit")


def note(session: Session, actor: str | None, action: str, subject: str, **details: object) -> None:
    """Add a row. subject: the id or name of what was changed. Neither it nor details hold patient data."""
    session.add(
        AuditEvent(at=datetime.now(UTC), actor=actor, action=action, subject=subject, details=details)
    )


class Reads:
    """Reads of patient data that wait to be written to the trail.

    A thread writes them within a second, so that no answer waits for a database that is slow, locked or
    unreachable; the reads wait for it. A process that is killed loses those that wait.
    """

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._waiting: deque[dict[str, Any]] = deque()
        self._noted = threading.Event()
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def note(self, actor: str, action: str, subject: str, **details: object) -> None:
        """Queue one row for writing. action: ends with ``READ``. No patient data, as for ``note``."""
        if len(self._waiting) >= MAX_WAITING_READS:
            logger.error(
                "a read is missing from the audit trail: %d are waiting for the database", MAX_WAITING_READS
            )
            return
        self._waiting.append(
            {
                "at": datetime.now(UTC),
                "actor": actor,
                "action": action,
                "subject": subject,
                "details": details,
            }
        )
        self._noted.set()
        with self._starting:
            # Started only now: a thread does not survive in the processes that a server forks.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="reads into the trail", daemon=True)
                self._thread.start()
                atexit.register(self._write)

    def _run(self) -> None:
        while self._noted.wait():
            self._noted.clear()
            self._write()
            time.sleep(PERIOD_S)

    def _write(self) -> None:
        with self._writing:
            rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not rows:
                return
            try:
                with writing(self._sessions) as session:
                    session.execute(insert(AuditEvent), rows)
            except Exception as error:  # noqa: BLE001 - nobody would notice that the thread has ended
                logger.warning("%d reads are waiting for the database: %s", len(rows), type(error).__name__)
                self._waiting.extendleft(reversed(rows))
                self._noted.set()


def events(
    sessions: sessionmaker[Session],
    limit: int,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: Literal["read", "change"] | None = None,
    **equal: str | None,
) -> list[AuditEvent]:
    """Return the newest events, newest first.

    before: only those with a smaller id. since, until: only those at or after since, and before until.
    kind: only reads of patient data, or only changes.
    equal: only those whose column (e.g. actor, action, subject) has this value; None: any.
    """
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEvent.id < before)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    if until is not None:
        query = query.where(AuditEvent.at < until)
    if kind is not None:
        is_read = AuditEvent.action.endswith(READ)
        query = query.where(is_read if kind == "read" else ~is_read)
    query = query.filter_by(**{column: value for column, value in equal.items() if value is not None})
    with reading(sessions) as session:
        return list(session.scalars(query))
