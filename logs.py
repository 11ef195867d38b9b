"""The log of a process on standard error: text, or JSON lines with the id of the job."""

import logging
import re
import traceback
import warnings
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Chatty third-party loggers.
LOG_LEVELS = {"alembic": logging.WARNING, "celery": logging.WARNING, "kombu": logging.ERROR}
# Loggers that quote queries and the headers of images.
LOGGERS_THAT_QUOTE_HEADERS = {"pydicom", "urllib3"}

# The start of the quoted values in a warning of pydicom.
VALUES = re.compile(r"['\"(:]")

logger = logging.getLogger("metscope.logs")
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def fault(error: BaseException) -> str:
    """Return what is logged of an exception: type and place, because its text may quote patient data."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def configure(log_format: Literal["text", "json"]) -> None:
    """Configure the log; each process calls this once."""
    handler = logging.StreamHandler()
    # A filter, not a level: pydicom sets its own level when it is imported.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in LOGGERS_THAT_QUOTE_HEADERS)
    if log_format == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter(FIELDS, rename_fields=names))
        handler.addFilter(_add_job_id)
    else:
        handler.setFormatter(logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    log_odd_headers()


def log_odd_headers() -> None:
    """Log the warnings of pydicom, each kind once and without the values that it quotes."""
    locations: set[tuple[str, int]] = set()
    show = warnings.showwarning

    def log_once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "pydicom" not in Path(filename).parts:
            show(message, category, filename, lineno, file, line)
        elif (filename, lineno) not in locations:
            locations.add((filename, lineno))
            logger.warning("headers that break the standard: %s ...", VALUES.split(str(message))[0].strip())

    warnings.showwarning = log_once
    warnings.filterwarnings("always", module="pydicom")


def _add_job_id(record: logging.LogRecord) -> bool:
    if (current := job_id.get()) is not None:
        record.job_id = current
    return True
