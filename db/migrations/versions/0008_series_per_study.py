"""a series UID may occur in several studies; what the images of a segmentation were; deletions of studies

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UNIQUE_ALONE = "uq_series_series_instance_uid"
UNIQUE_PER_STUDY = "uq_series_study_ref_series_instance_uid"


def upgrade() -> None:
    op.drop_index(op.f("ix_series_study_ref"), table_name="series")
    with op.batch_alter_table("series") as table:
        table.drop_constraint(op.f(UNIQUE_ALONE), type_="unique")
        table.create_unique_constraint(op.f(UNIQUE_PER_STUDY), ["study_ref", "series_instance_uid"])
    op.create_index(op.f("ix_series_series_instance_uid"), "series", ["series_instance_uid"])
    op.add_column("segmentations", sa.Column("content_sha256", sa.String(), nullable=True))
    op.create_table(
        "study_deletions",
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_study_deletions")),
    )


def downgrade() -> None:
    twice = sa.text("SELECT count(*) - count(DISTINCT series_instance_uid) FROM series")
    if op.get_bind().execute(twice).scalar():
        raise CommandError("a series UID occurs in several studies, which the older version cannot hold")
    op.drop_table("study_deletions")
    with op.batch_alter_table("segmentations") as table:
        table.drop_column("content_sha256")
    op.drop_index(op.f("ix_series_series_instance_uid"), table_name="series")
    with op.batch_alter_table("series") as table:
        table.drop_constraint(op.f(UNIQUE_PER_STUDY), type_="unique")
        table.create_unique_constraint(op.f(UNIQUE_ALONE), ["series_instance_uid"])
    op.create_index(op.f("ix_series_study_ref"), "series", ["study_ref"])
