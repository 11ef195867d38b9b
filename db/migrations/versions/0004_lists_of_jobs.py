"""indexes for the newest jobs and for the estimate

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_jobs_created_at"), "jobs", ["created_at"])
    op.create_index(op.f("ix_jobs_model_id_finished_at"), "jobs", ["model_id", "finished_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_jobs_model_id_finished_at"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_created_at"), table_name="jobs")
