"""The live worker processes; each renews its own row.

python -m db.workers: exit with 0 if a worker on this machine is alive, otherwise with 1; for a health check.
"""

import socket
import sys
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import create_engine, delete, select
from sqlalchemy.orm import Session, sessionmaker

from db.database import current_time, insert_for, writing
from db.tables import Worker
from settings import load

WORKER_RETENTION = timedelta(days=1)


def seen(
    sessions: sessionmaker[Session],
    worker_id: str,
    loaded_models: Sequence[str],
    model_problem: str | None = None,
) -> None:
    """Record that the worker is alive; remove the rows of workers that vanished a day ago.

    model_problem: why the default model could not be loaded.
    """
    with writing(sessions) as session:
        now = current_time(session)
        changing = {"loaded_models": list(loaded_models), "model_problem": model_problem, "seen_at": now}
        session.execute(
            insert_for(session, Worker)
            .values(id=worker_id, started_at=now, **changing)
            .on_conflict_do_update(index_elements=[Worker.id], set_=changing)
        )
        session.execute(delete(Worker).where(Worker.seen_at < now - WORKER_RETENTION))


def gone(sessions: sessionmaker[Session], worker_id: str) -> None:
    """Remove the row of a worker that stops."""
    with writing(sessions) as session:
        session.execute(delete(Worker).where(Worker.id == worker_id))


def living(session: Session, silent_s: float) -> list[Worker]:
    """Return the workers seen within the last silent_s seconds, by id.

    A worker seen further in the future, before the database's clock was set back, counts when seen again.
    """
    now, silence = current_time(session), timedelta(seconds=silent_s)
    lately = Worker.seen_at.between(now - silence, now + silence)
    return list(session.scalars(select(Worker).where(lately).order_by(Worker.id)))


def main() -> int:
    """Return 0 if a worker of this machine is alive, otherwise 1."""
    settings = load()
    with Session(create_engine(settings.sqlalchemy_url)) as session:
        hosts = [worker.id.partition(":")[0] for worker in living(session, settings.lease_s)]
    return int(socket.gethostname() not in hosts)


if __name__ == "__main__":
    sys.exit(main())
