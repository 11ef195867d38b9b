"""Opens the database: SQLite by default, PostgreSQL by URL; brings its tables up to date first."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from db.tables import Base
from errors import SettingsError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 30_000
POOL_SIZE = 16
# Any number that no other program on the server uses: it keeps two starting processes from migrating at once.
MIGRATION_LOCK = 0x4D657453
# What a database that is away, overloaded or a standby answers with.
AWAY = (OperationalError, InternalError, InterfaceError, PoolTimeoutError)
FOR_WRITING = {
    "sqlite": {"sqlite_begin": "BEGIN IMMEDIATE"},
    "postgresql": {"isolation_level": "READ COMMITTED"},
}


def open_database(url: str) -> sessionmaker[Session]:
    """Sessions on an up-to-date database. The rows they return stay readable after the session.

    url: a SQLAlchemy URL; sqlite:////absolute/path or postgresql+psycopg://user:password@host/name.
    Raises: SettingsError when the database cannot be reached, or was written by a newer MetScope.
    """
    try:
        address = make_url(url)
    except ArgumentError:
        raise SettingsError("DATABASE_URL is not a SQLAlchemy URL.") from None
    if address.get_backend_name() not in {"sqlite", "postgresql"}:
        raise SettingsError(f"DATABASE_URL names {address.get_backend_name()!r}, not sqlite or postgresql.")
    try:
        engine = _engine(address)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL {address!r} cannot be opened: {error.strerror}.") from None
    try:
        with migrating(engine) as connection:
            command.upgrade(alembic_config(connection), "head")
    except OperationalError as error:
        engine.dispose()
        raise SettingsError(f"DATABASE_URL {address!r} cannot be opened: {error.orig}.") from None
    except CommandError as error:
        engine.dispose()
        raise SettingsError(f"DATABASE_URL {address!r} cannot be brought to this version: {error}.") from None
    return sessionmaker(engine, expire_on_commit=False)


def open_connections(sessions: sessionmaker[Session]) -> None:
    """Open as many as are kept, so that no question waits for one."""
    with ExitStack() as opened:
        for _ in range(POOL_SIZE):
            opened.enter_context(reading_rows(sessions))


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """One transaction for alembic.command, which no other process's can meet."""
    with engine.connect().execution_options(**FOR_WRITING[engine.dialect.name]) as connection:
        # To change a table SQLite makes another and drops the first, on which the rows of others depend.
        _enforce_foreign_keys(connection, False)
        try:
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                yield connection
        finally:
            _enforce_foreign_keys(connection, True)


def _enforce_foreign_keys(connection: Connection, on: bool) -> None:
    dbapi_connection = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and dbapi_connection is not None:
        # Without effect inside a transaction, so not through SQLAlchemy, which would begin one.
        dbapi_connection.cursor().execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")


def alembic_config(connection: Connection) -> Config:
    """For alembic.command, on an open connection: no alembic.ini, no second place for the URL."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def reading(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """A session for questions alone: on PostgreSQL without a transaction around them (``_engine``)."""
    with sessions() as session:
        yield session


@contextmanager
def reading_rows(sessions: sessionmaker[Session]) -> Iterator[Connection]:
    """The same for columns: a third of the time that objects take."""
    with sessions.kw["bind"].connect() as connection:
        yield connection


@contextmanager
def writing(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """One transaction that writes: committed at the end, rolled back by an exception.

    On SQLite it takes the write lock at once. A transaction that reads first and asks for the lock later
    is refused without waiting when another process has written in between.
    """
    with sessions.begin() as session:
        session.connection(execution_options=FOR_WRITING[session.get_bind().dialect.name])
        yield session


def insert_for(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that takes ON CONFLICT, in the words of the session's database."""
    return (
        postgresql.insert(table) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(table)
    )


def _engine(address: URL) -> Engine:
    # As many connections as the API has threads: those beyond the pool are opened for each request.
    if address.get_backend_name() == "postgresql":
        # Questions go without a transaction, whose BEGIN and ROLLBACK would double the ways to the server.
        # The connection used last is used next: what the server knows of it is still at hand.
        return create_engine(
            address,
            pool_pre_ping=True,
            pool_size=POOL_SIZE,
            pool_use_lifo=True,
            isolation_level="AUTOCOMMIT",
        )
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(address, pool_size=POOL_SIZE)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN comes late and is always deferred; SQLAlchemy's documented way around it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
