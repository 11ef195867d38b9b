"""how probable it is that a lesion is one

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("measurements", sa.Column("confidence", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("measurements", "confidence")
