"""${message}

Why:
When: before the deploy | after the deploy
Revision: ${up_revision}, after ${down_revision | comma,n}

Rules of a revision: one idea; it only adds, so that older code still works; it never imports the package's models; it
has a real downgrade that does not drop rows by default (a statement that raises is named GUARD); tables and columns
have comment=; an index on an existing table is built concurrently, alone in its revision, after an invalid index of
the same name is dropped.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
