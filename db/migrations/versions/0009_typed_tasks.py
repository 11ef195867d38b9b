"""a job's task names its kind

Revision ID: 0009
Revises: 0008
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JOBS = sa.table("jobs", sa.column("id", sa.String()), sa.column("task", sa.JSON(none_as_null=True)))
# By the kind: the key that it had, and what that key is called now.
KINDS = {
    "correction": ("correct", "segmentation_id"),
    "measurement": ("measure", "sop_instance_uid"),
    "restoration": ("restore", "segmentation_id"),
    "rtstruct": ("rtstruct", "segmentation_id"),
    "uncertainty": ("uncertainty", "segmentation_id"),
}


def upgrade() -> None:
    _rewrite(_typed)
    with op.batch_alter_table("jobs") as table:
        table.alter_column("task", existing_type=sa.JSON(none_as_null=True), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.alter_column("task", existing_type=sa.JSON(none_as_null=True), nullable=True)
    _rewrite(_untyped)


def _rewrite(change: Any) -> None:
    connection = op.get_bind()
    for row in connection.execute(sa.select(JOBS.c.id, JOBS.c.task)).all():
        connection.execute(sa.update(JOBS).where(JOBS.c.id == row.id).values(task=change(row.task)))


def _typed(task: dict[str, Any] | None) -> dict[str, Any]:
    task = task or {}
    for kind, (old, new) in KINDS.items():
        if old in task:
            rest = {name: value for name, value in task.items() if name != old}
            return {"kind": kind, new: task[old], **rest}
    return {"kind": "segmentation", "inputs": task.get("inputs", {})}


def _untyped(task: dict[str, Any]) -> dict[str, Any] | None:
    kind, rest = task["kind"], {name: value for name, value in task.items() if name != "kind"}
    if kind == "segmentation":
        return {"inputs": rest["inputs"]} if rest["inputs"] else None
    old, new = KINDS[kind]
    return {old: rest.pop(new), **rest}
