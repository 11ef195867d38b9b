"""corrections, companions of a SEG, an outbox of several objects

Revision ID: 0005
Revises: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SEGS = """
    SELECT segmentation_ref, segmentations.sop_instance_uid, encoded
    FROM outbox JOIN segmentations ON id = segmentation_ref
"""


def _outbox(key: str) -> None:
    columns: list[sa.Column[Any] | sa.Constraint] = [
        sa.Column("segmentation_ref", sa.String(), nullable=False),
        sa.Column("encoded", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segmentation_ref"], ["segmentations.id"], name=op.f("fk_outbox_segmentation_ref_segmentations")
        ),
        sa.PrimaryKeyConstraint(key, name=op.f("pk_outbox")),
    ]
    if key == "sop_instance_uid":
        columns.insert(0, sa.Column("sop_instance_uid", sa.String(), nullable=False))
    op.drop_table("outbox")
    op.create_table("outbox", *columns)


def upgrade() -> None:
    op.execute(f"CREATE TABLE waiting AS {SEGS}")
    _outbox("sop_instance_uid")
    op.create_index(op.f("ix_outbox_segmentation_ref"), "outbox", ["segmentation_ref"])
    names = "segmentation_ref, sop_instance_uid, encoded"
    op.execute(f"INSERT INTO outbox ({names}) SELECT {names} FROM waiting")
    op.drop_table("waiting")
    op.create_table(
        "companions",
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("segmentation_ref", sa.String(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["segmentation_ref"],
            ["segmentations.id"],
            name=op.f("fk_companions_segmentation_ref_segmentations"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_companions")),
    )
    op.create_index(op.f("ix_companions_segmentation_ref"), "companions", ["segmentation_ref"])
    with op.batch_alter_table("segmentations") as table:
        table.add_column(sa.Column("corrects", sa.String(), nullable=True))
        table.add_column(sa.Column("corrected_by", sa.String(), nullable=True))
        table.add_column(
            sa.Column("changes", sa.JSON(none_as_null=True), nullable=False, server_default=sa.text("'[]'"))
        )
        table.create_foreign_key(
            op.f("fk_segmentations_corrects_segmentations"),
            "segmentations",
            ["corrects"],
            ["id"],
            ondelete="SET NULL",
        )
    op.create_index(
        op.f("ix_jobs_study_instance_uid_created_at"), "jobs", ["study_instance_uid", "created_at"]
    )
    op.add_column("jobs", sa.Column("task", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    other = sa.text(
        "SELECT count(*) FROM outbox WHERE sop_instance_uid NOT IN "
        "(SELECT sop_instance_uid FROM segmentations WHERE sop_instance_uid IS NOT NULL)"
    )
    if op.get_bind().execute(other).scalar():
        raise CommandError("reports or structure sets wait in the outbox; let a worker store them first")
    # What they ask for cannot be said any more.
    op.execute("DELETE FROM jobs WHERE task IS NOT NULL")
    op.drop_column("jobs", "task")
    op.drop_index(op.f("ix_jobs_study_instance_uid_created_at"), table_name="jobs")
    with op.batch_alter_table("segmentations") as table:
        table.drop_constraint(op.f("fk_segmentations_corrects_segmentations"), type_="foreignkey")
        table.drop_column("changes")
        table.drop_column("corrected_by")
        table.drop_column("corrects")
    op.drop_table("companions")
    op.execute(f"CREATE TABLE waiting AS {SEGS}")
    op.drop_index(op.f("ix_outbox_segmentation_ref"), table_name="outbox")
    _outbox("segmentation_ref")
    op.execute("INSERT INTO outbox (segmentation_ref, encoded) SELECT segmentation_ref, encoded FROM waiting")
    op.drop_table("waiting")
