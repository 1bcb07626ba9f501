"""the burst of a group: extra capacity on the side that stands by

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("group", sa.Column("burst", sa.Text(), server_default="{}", nullable=False))
