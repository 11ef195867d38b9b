"""a job's task names its kind

Revision ID: 0009
Revises: 0008
"""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JOBS = sa.table(
    "jobs",
    sa.column("id", sa.String()),
    sa.column("task", sa.JSON(none_as_null=True)),
    sa.column("request_key", sa.String()),
)
# Slashes in a request key before the digest of the task, which a plain segmentation's key lacks.
SLASHES = 2
# By the kind: the key that it had, and what that key is called now.
KINDS = {
    "correction": ("correct", "segmentation_id"),
    "measurement": ("measure", "sop_instance_uid"),
    "restoration": ("restore", "segmentation_id"),
    "rtstruct": ("rtstruct", "segmentation_id"),
    "uncertainty": ("uncertainty", "segmentation_id"),
}


# Fields that a task may lack, by its kind, and what a missing one means.
DEFAULTS: dict[str, dict[str, Any]] = {
    "correction": {"rename": {}, "delete": []},
    "measurement": {"corrects": None},
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
    for row in connection.execute(sa.select(JOBS.c.id, JOBS.c.task, JOBS.c.request_key)).all():
        task = change(row.task)
        # An equal request of the new version finds an active job by this key.
        key = "/".join(row.request_key.split("/")[: SLASHES + 1])
        if task not in (None, {"kind": "segmentation", "inputs": {}}):
            content = json.dumps(task, sort_keys=True)
            key += "/" + hashlib.sha256(content.encode()).hexdigest()
        connection.execute(
            sa.update(JOBS).where(JOBS.c.id == row.id).values(task=task, request_key=key)
        )


def _typed(task: dict[str, Any] | None) -> dict[str, Any]:
    task = task or {}
    for kind, (old, new) in KINDS.items():
        if old in task:
            rest = {name: value for name, value in task.items() if name != old}
            return {"kind": kind, **DEFAULTS.get(kind, {}), new: task[old], **rest}
    return {"kind": "segmentation", "inputs": task.get("inputs", {})}


def _untyped(task: dict[str, Any]) -> dict[str, Any] | None:
    kind, rest = task["kind"], {name: value for name, value in task.items() if name != "kind"}
    if kind == "segmentation":
        return {"inputs": rest["inputs"]} if rest["inputs"] else None
    old, new = KINDS[kind]
    return {old: rest.pop(new), **rest}
