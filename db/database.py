"""The database, SQLite by default or PostgreSQL by URL, and its sessions. Opening it migrates the tables.

No wait for a PostgreSQL server is unlimited: the server itself ends long statements and lock waits, and the
client closes its connection to a silent server (``_BoundedConnection``).
"""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from psycopg.abc import RV, PQGen
from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from db.column_types import storable
from db.tables import Base
from errors import SettingsError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 30_000
# More than the threads of a worker use at a time; the API passes its number of threads.
CONNECTIONS = 4
# Each process takes at most one in this many of the connections that a PostgreSQL server allows.
CONNECTION_SHARES = 4
CONNECT_LIMIT_S = 3
POOL_LIMIT_S = 10
LOCK_LIMIT_S = 4
MIGRATION_LOCK_LIMIT_S = 120
STATEMENT_LIMIT_S = 8
# Longer than any statement may take: a server that is silent for this long hangs.
SILENCE_LIMIT_S = 10
# The server then rolls back the transaction of a process that hangs, and frees its locks.
IDLE_IN_TRANSACTION_LIMIT_S = 30
# libpq's names. A vanished peer is noticed after a minute, unacknowledged data after 15 s.
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# Key of the lock that keeps two starting processes from migrating at once. No other program may use it.
MIGRATION_LOCK = 0x4D657453
# Errors of a database that is unreachable, overloaded or a standby.
DATABASE_UNAVAILABLE = (OperationalError, InternalError, InterfaceError, PoolTimeoutError)
FOR_WRITING = {
    "sqlite": {"sqlite_begin": "BEGIN IMMEDIATE"},
    "postgresql": {"isolation_level": "READ COMMITTED"},
}
# The lowest limit of the server, the database and the role; a limit that is not set (-1) does not count.
ALLOWED_CONNECTIONS = text("""
    SELECT min(allowed) FROM (
        SELECT current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int AS allowed
        UNION ALL SELECT datconnlimit FROM pg_database WHERE datname = current_database()
        UNION ALL SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user
    ) AS limits WHERE allowed >= 0""")

logger = logging.getLogger("metscope.database")


def open_database(url: str, *, connections: int = CONNECTIONS, limited: bool = True) -> sessionmaker[Session]:
    """Return sessions on an up-to-date database. Their rows stay readable after the session.

    url: a SQLAlchemy URL; sqlite:////absolute/path or postgresql+psycopg://user:password@host/name.
    connections: the most that are kept open; fewer if the PostgreSQL server allows only a few.
    limited: False for a command whose statements may take long.
    Raises: SettingsError when the database cannot be reached, or was written by a newer MetScope.
    """
    try:
        address = make_url(url)
    except ArgumentError:
        raise SettingsError("DATABASE_URL is not a SQLAlchemy URL.") from None
    if address.get_backend_name() not in {"sqlite", "postgresql"}:
        raise SettingsError(f"DATABASE_URL names {address.get_backend_name()!r}, not sqlite or postgresql.")
    try:
        engine = _engine(address, connections=1, limited=False)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL {address!r} cannot be opened: {error.strerror}.") from None
    try:
        with migrating(engine) as connection:
            command.upgrade(alembic_config(connection), "head")
            if engine.dialect.name == "postgresql":
                allowed = connection.execute(ALLOWED_CONNECTIONS).scalar_one()
                connections = max(2, min(connections, allowed // CONNECTION_SHARES))
    except OperationalError as error:
        raise SettingsError(f"DATABASE_URL {address!r} cannot be opened: {error.orig}.") from None
    except CommandError as error:
        raise SettingsError(
            f"DATABASE_URL {address!r} cannot be upgraded to this version: {error}."
        ) from None
    finally:
        engine.dispose()
    return sessionmaker(_engine(address, connections, limited), expire_on_commit=False)


def open_connections(sessions: sessionmaker[Session]) -> None:
    """Fill the connection pool, as far as the server has connections, so that no query waits for one."""
    engine = sessions.kw["bind"]
    with ExitStack() as opened:
        try:
            for _ in range(engine.pool.size()):
                opened.enter_context(reading_rows(sessions))
        except DATABASE_UNAVAILABLE as error:
            logger.warning("not all database connections could be opened: %s", type(error).__name__)


def current_time(connection: Session | Connection) -> datetime:
    """Return the time of the database's clock, the only one that all machines share.

    SQLite runs within this process: its clock is this machine's, as for every process that opens the file.
    """
    bind = connection.get_bind() if isinstance(connection, Session) else connection
    if bind.dialect.name == "sqlite":
        return datetime.now(UTC)
    # Not now(), the start of the transaction: it may have waited for a lock since.
    time: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return time.astimezone(UTC)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """Provide a transaction for alembic.command; only one process at a time gets one."""
    with engine.connect().execution_options(**FOR_WRITING[engine.dialect.name]) as connection:
        # SQLite changes a table by copying and dropping it, while rows of other tables refer to it.
        _enforce_foreign_keys(connection, False)
        try:
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_LIMIT_S}s'"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                yield connection
        finally:
            _enforce_foreign_keys(connection, True)


def _enforce_foreign_keys(connection: Connection, on: bool) -> None:
    dbapi_connection = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and dbapi_connection is not None:
        # The pragma has no effect inside a transaction, which SQLAlchemy would begin.
        dbapi_connection.cursor().execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")


def alembic_config(connection: Connection) -> Config:
    """Return alembic's configuration on an open connection: no alembic.ini, no second place for the URL."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def reading(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Provide a session for queries only; on PostgreSQL they run without a transaction (``_engine``)."""
    with sessions() as session:
        yield session


@contextmanager
def reading_rows(sessions: sessionmaker[Session]) -> Iterator[Connection]:
    """Provide a connection for queries of columns, which take a third of the time of objects."""
    with sessions.kw["bind"].connect() as connection:
        yield connection


@contextmanager
def writing(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Provide a transaction that writes: committed at the end, rolled back by an exception.

    On SQLite it takes the write lock at once. A transaction that reads first and takes the lock later
    fails without waiting if another process has written in between.
    """
    with sessions.begin() as session:
        session.connection(execution_options=FOR_WRITING[session.get_bind().dialect.name])
        yield session


def insert_for(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that supports ON CONFLICT, in the dialect of the session's database."""
    return (
        postgresql.insert(table) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(table)
    )


class _BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when its server is silent for SILENCE_LIMIT_S.

    The timeouts of the server and of TCP do not help if the server hangs: it does not check its clock,
    and its machine still acknowledges what arrives.
    """

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = SILENCE_LIMIT_S) -> RV:
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            # An error without SQLSTATE means that the server did not answer.
            if error.sqlstate is None:
                self.pgconn.finish()
            raise


def _engine(address: URL, connections: int, limited: bool) -> Engine:
    if address.get_backend_name() == "postgresql":
        # Queries run without a transaction: BEGIN and ROLLBACK would double the round trips.
        # LIFO, because the server's caches for the connection used last are still warm.
        engine = create_engine(
            address,
            connect_args={"connect_timeout": CONNECT_LIMIT_S, **KEEPALIVE},
            hide_parameters=True,
            json_serializer=_to_json,
            pool_pre_ping=True,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_LIMIT_S,
            pool_use_lifo=True,
            isolation_level="AUTOCOMMIT",
        )
        if limited:
            event.listen(engine, "do_connect", _connect_bounded)
            event.listen(engine, "connect", _limit_statements)
        return engine
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(address, pool_size=connections, hide_parameters=True, json_serializer=_to_json)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _to_json(value: object) -> str:
    return json.dumps(storable(value))


def _connect_bounded(
    _dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
) -> DBAPIConnection:
    return _BoundedConnection.connect(*arguments, **options)  # type: ignore[return-value]


def _limit_statements(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Set by statements: a connection pooler in between may refuse startup options.
    try:
        cursor = connection.cursor()
        cursor.execute(f"SET statement_timeout = '{STATEMENT_LIMIT_S}s'")
        cursor.execute(f"SET lock_timeout = '{LOCK_LIMIT_S}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_LIMIT_S}s'")
        cursor.close()
        connection.commit()
    except psycopg.Error:
        # SQLAlchemy drops a connection whose setup fails, but does not close it.
        connection.close()
        raise


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN comes late and is always deferred; this is SQLAlchemy's documented workaround.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
