"""Run by Alembic for every command, on the connection that db.database hands over.

A new revision, after a change of db/tables.py, on a database at head: alembic.command.revision(
alembic_config(connection), "what changes", autogenerate=True, rev_id="0002").
"""

from typing import Any, Literal

from alembic import context

from db.column_types import UtcDateTime
from db.tables import Base


def _render(kind: str, item: Any, _context: object) -> str | Literal[False]:
    # A migration must not change when the code does, so it names SQLAlchemy's type, not ours.
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,  # SQLite can, because db.database sends its BEGIN itself
    render_as_batch=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
