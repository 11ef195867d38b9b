"""Column types that both databases store alike: points in time, texts, tasks of jobs."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, String, TypeDecorator

from schemas.tasks import TASKS, Task


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware when written, UTC when read. SQLite has no time zones and stores plain UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def storable(value: Any) -> Any:
    """Return the text, or JSON value with texts, with marks in place of what no database column can hold.

    Headers and JSON of an archive may contain NUL and lone UTF-16 surrogates, which PostgreSQL refuses.
    """
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


class Text(TypeDecorator[str]):
    """A text, stored as ``storable`` returns it."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        cleaned: str | None = storable(value)
        return cleaned


class TaskColumn(TypeDecorator[Task]):
    """A job's task, stored as JSON."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Task | None, dialect: Dialect) -> dict[str, Any] | None:
        return None if value is None else storable(value.model_dump(mode="json"))

    def process_result_value(self, value: dict[str, Any] | None, dialect: Dialect) -> Task | None:
        return None if value is None else TASKS.validate_python(value)
