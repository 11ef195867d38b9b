"""The Celery application: how the API wakes a worker.

SQL holds the truth about every job (db/jobs.py); a message says no more than "look at job N". A message
that is lost or arrives twice therefore does no harm: a worker claims the job by lease before it works, and
announces waiting jobs again by itself. That is why messages are acknowledged early and no result is kept.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from errors import SettingsError
from settings import Settings

SEGMENT = "metscope.segment"
QUEUE = "metscope"
# Which host is all the same to this transport, but kombu warns without one.
FOLDER_URL = "filesystem://localhost"
FOLDER_POLL_S = 0.1
CONNECT_LIMIT_S = 2.0


def create(settings: Settings) -> Celery:
    """The application on BROKER_URL; without one, on folders in DATA_DIR, which are created.

    Raises: SettingsError.
    """
    app = Celery("metscope", broker=settings.broker_url or FOLDER_URL, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={} if settings.broker_url else _folders(settings.queue_dir),
    )
    return app


def announce(app: Celery, job_id: str) -> bool:
    """Tell the workers about a job. False: the broker is away; the job waits in SQL until a worker looks."""
    try:
        app.send_task(
            SEGMENT, args=[job_id], retry=True, retry_policy={"max_retries": 1, "interval_start": 0.1}
        )
    except OperationalError:
        return False
    return True


def connect(app: Celery) -> None:
    """Have the first announcement not wait for it; nothing where the broker is away."""
    with contextlib.suppress(OperationalError), app.producer_pool.acquire(block=True) as producer:
        producer.connection.ensure_connection(max_retries=1, interval_start=0)


def trouble(app: Celery) -> str | None:
    """None when the broker takes messages, else a sentence that says why not."""
    folder = app.conf.broker_transport_options.get("data_folder_out")
    if folder is not None:
        return None if os.access(folder, os.W_OK) else "The queue's folder in DATA_DIR cannot be written."
    try:
        with app.connection_for_write(connect_timeout=CONNECT_LIMIT_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except OperationalError:
        return "The broker of BROKER_URL does not answer."
    return None


def _folders(queue_dir: Path) -> dict[str, Any]:
    messages, control = queue_dir / "messages", queue_dir / "control"
    try:
        for folder in (messages, control):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR cannot hold the queue: {error.strerror}.") from None
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "polling_interval": FOLDER_POLL_S,
    }
