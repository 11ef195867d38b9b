"""the outbox in the database, workers, batches, presence in the archive

Revision ID: 0003
Revises: 0002
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _one_active_job(where: str) -> None:
    op.drop_index("uq_jobs_one_active", table_name="jobs")
    condition = sa.text(where)
    op.create_index(
        "uq_jobs_one_active",
        "jobs",
        ["request_key"],
        unique=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def upgrade() -> None:
    outbox = op.create_table(
        "outbox",
        sa.Column("segmentation_ref", sa.String(), nullable=False),
        sa.Column("encoded", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segmentation_ref"], ["segmentations.id"], name=op.f("fk_outbox_segmentation_ref_segmentations")
        ),
        sa.PrimaryKeyConstraint("segmentation_ref", name=op.f("pk_outbox")),
    )
    waiting = sa.text("SELECT id, outbox_path FROM segmentations WHERE outbox_path IS NOT NULL")
    for segmentation_id, path in op.get_bind().execute(waiting).all():
        try:
            encoded = Path(path).read_bytes()
        except OSError:
            raise CommandError(f"{path}, which waits for the archive, is not on this machine") from None
        op.execute(outbox.insert().values(segmentation_ref=segmentation_id, encoded=encoded))
    with op.batch_alter_table("segmentations") as table:
        table.drop_constraint(op.f("ck_segmentations_outbox_has_uid"), type_="check")
        table.drop_column("outbox_path")
        table.add_column(sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("loaded_models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_table(
        "batch_jobs",
        sa.Column("batch_ref", sa.String(), nullable=False),
        sa.Column("job_ref", sa.String(), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["batch_ref"], ["batches.id"], name=op.f("fk_batch_jobs_batch_ref_batches")),
        sa.ForeignKeyConstraint(["job_ref"], ["jobs.id"], name=op.f("fk_batch_jobs_job_ref_jobs")),
        sa.PrimaryKeyConstraint("batch_ref", "job_ref", name=op.f("pk_batch_jobs")),
    )
    op.create_index(op.f("ix_batch_jobs_job_ref"), "batch_jobs", ["job_ref"])
    _one_active_job("state IN ('queued', 'running') AND NOT force AND NOT cancel_requested")


def downgrade() -> None:
    if op.get_bind().execute(sa.text("SELECT 1 FROM outbox")).first() is not None:
        raise CommandError("SEG objects wait in the outbox; let a worker store them before the downgrade.")
    _one_active_job("state IN ('queued', 'running') AND NOT force")
    op.drop_table("batch_jobs")
    op.drop_table("batches")
    op.drop_table("workers")
    with op.batch_alter_table("segmentations") as table:
        table.drop_column("missing_since")
        table.drop_column("checked_at")
        table.add_column(sa.Column("outbox_path", sa.String(), nullable=True))
        table.create_check_constraint(
            op.f("ck_segmentations_outbox_has_uid"), "outbox_path IS NULL OR sop_instance_uid IS NOT NULL"
        )
    op.drop_table("outbox")
