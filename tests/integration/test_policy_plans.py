"""SQL of statements on policy runs that graph jobs do not have; see tests/contract/test_plans.py for the plans."""

import re

from graphjobs.database.executor import compiled
from graphjobs.policy_runs.sql import acquire


def test_the_tenant_rotation_compares_tenants_by_bytes_only() -> None:
    """A mix with the order of the database's language, which not every server here has, would skip tenants."""
    sql = compiled(acquire.LEASE_RUNS).sql
    one = r"\(SELECT [^()]*(?:\([^()]*\)[^()]*)+ LIMIT 1\) COLLATE \"C\""
    assert 4 == sql.count("least((SELECT") == len(re.findall(rf"least\({one}, {one}\)", sql))
    assert not re.findall(r"tenant_id (?:>|>=|<=) ", sql)
