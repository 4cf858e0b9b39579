"""SQL of statements on policy runs that graph jobs do not have; see tests/contract/test_plans.py for the plans."""

import re

from graphjobs.database.executor import compiled
from graphjobs.policy_runs.sql import acquire
from tests.contract.policy_run_plans import PolicyRunPlans


def test_the_statements_across_tenants_are_named_in_their_module() -> None:
    """In its docstring."""
    assert all(name in (acquire.__doc__ or "") for name in PolicyRunPlans.across_tenants)


def test_the_tenant_rotation_compares_tenants_by_bytes_only() -> None:
    """A mix with the order of the database's language, which not every server here has, would skip tenants."""
    sql = compiled(acquire.LEASE_RUNS).sql
    one = r"\(SELECT [^()]*(?:\([^()]*\)[^()]*)+ LIMIT 1\) COLLATE \"C\""
    assert 4 == sql.count("least((SELECT") == len(re.findall(rf"least\({one}, {one}\)", sql))
    assert not re.findall(r"tenant_id (?:>|>=|<=) ", sql)
