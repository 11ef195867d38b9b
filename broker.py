"""The Celery application, by which the API wakes a worker.

SQL is authoritative for every job (db/jobs.py); a message only says "look at job N". A message that is lost
or arrives twice therefore does no harm: a worker claims the job by lease before it works, and looks for
waiting jobs by itself. That is why messages are acknowledged early and no result is kept.
"""

import contextlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from errors import SettingsError
from settings import Settings

SEGMENT = "metscope.segment"
QUEUE = "metscope"
# This transport ignores the host, but kombu warns without one.
FOLDER_URL = "filesystem://localhost"
FOLDER_POLL_S = 0.1
# Redis answers within milliseconds, or it hangs.
REDIS_LIMITS = {"socket_connect_timeout": 2.0, "socket_timeout": 5.0, "socket_keepalive": True}
CONNECT_LIMIT_S = 2.0
# Pause after a failed announcement; meanwhile the workers find the jobs in the database.
SILENCE_S = 10.0
PROBE_KEY = "metscope.ready"

logger = logging.getLogger("metscope.broker")


def create(settings: Settings) -> Celery:
    """Return the application on BROKER_URL; without one, on folders in DATA_DIR, which are created.

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
        broker_transport_options=_transport_options(settings),
    )
    return app


def announce(app: Celery, job_id: str) -> bool:
    """Announce a job to the workers. False: the broker is away; the job waits in SQL until a worker looks."""
    try:
        app.send_task(
            SEGMENT, args=[job_id], retry=True, retry_policy={"max_retries": 1, "interval_start": 0.1}
        )
    except (KombuError, OSError):
        return False
    return True


class Announcer:
    """A thread that announces jobs, so that no request waits for a broker that hangs."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._executor = ThreadPoolExecutor(1, "announcer")
        self._silent_until = 0.0

    def tell(self, job_id: str) -> None:
        """Announce a job in the background; the workers get it within milliseconds, or find it in SQL."""
        self._executor.submit(self._announce, job_id)

    def _announce(self, job_id: str) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            is_announced = announce(self._app, job_id)
        except Exception as error:  # noqa: BLE001 - whatever a transport raises, the job is recorded
            logger.error("job %s: could not be announced: %s", job_id, type(error).__name__)
            is_announced = False
        if not is_announced:
            self._silent_until = time.monotonic() + SILENCE_S
            logger.warning(
                "job %s: the broker is unreachable; a worker will find the job in the database", job_id
            )


def connect(app: Celery) -> None:
    """Connect before the first announcement; do nothing if the broker is away."""
    with contextlib.suppress(OperationalError), app.producer_pool.acquire(block=True) as producer:
        producer.connection.ensure_connection(max_retries=1, interval_start=0)


def health_problem(app: Celery) -> str | None:
    """Return None if the broker takes messages, otherwise a sentence that says why not."""
    folder = app.conf.broker_transport_options.get("data_folder_out")
    if folder is not None:
        return None if os.access(folder, os.W_OK) else "The queue's folder in DATA_DIR cannot be written."
    try:
        with app.connection_for_write(connect_timeout=CONNECT_LIMIT_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            if connection.transport.driver_type == "redis":
                # Fails if its memory is full, its disk fails, or it is a read-only replica.
                connection.default_channel.client.set(PROBE_KEY, 1, ex=60)
    except OperationalError:
        return "The broker of BROKER_URL does not answer."
    except (RedisError, OSError) as error:
        return f"The broker of BROKER_URL does not accept messages ({type(error).__name__})."
    return None


def _transport_options(settings: Settings) -> dict[str, object]:
    if not settings.broker_url:
        return _folders(settings.queue_dir)
    return dict(REDIS_LIMITS) if settings.broker_url.startswith("redis") else {}


def _folders(queue_dir: Path) -> dict[str, object]:
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
