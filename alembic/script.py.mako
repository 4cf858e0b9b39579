"""${message}

Why:
When: before the deploy | after the deploy
Revision: ${up_revision}, after ${down_revision | comma,n}

Rules of a revision: one idea; only adds, so that the code before it goes on working; never imports the package's models;
a real downgrade that drops no row unasked (a statement that raises is named GUARD); tables and columns carry comment=; an index on a table that lives is built
concurrently, alone in its revision, and an invalid one of the same name is dropped first.
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
