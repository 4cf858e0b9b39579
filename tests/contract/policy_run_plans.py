"""The expected plan of each statement on policy runs."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, Final

from typing_extensions import override

from graphjobs.core.transitions import event_payload
from graphjobs.policy_runs.row_mapping import run_params
from graphjobs.policy_runs.sql import acquire, expired, finish, lists, single
from tests.builders import AT, policy_run
from tests.contract.plans import DEAD_ROWS, KNOWN, LIMIT, NEW, ROWS, Connection, PlanCase, Plans, Start, statements_of

KEY: Final = "policy_runs_pkey"
LOG: Final = "idx_policy_run_events_log"
TRANSITION: Final = "idx_policy_run_events_transition"
_NAME: Final = "idx_policy_runs_run_id"
_PENDING: Final = "idx_policy_runs_pending"
_DEPTH: Final = "idx_policy_runs_depth"
_LEASED: Final = "idx_policy_runs_leased"
_BY_STATUS: Final = "idx_policy_runs_tenant_status"
_BY_POLICY: Final = "idx_policy_runs_tenant_policy_status"

_SCANS: Final = 18
"""The scans of a page or a count: one for each status and mode."""
_PAGES_PER_KEY: Final = 8
_PAGES_PER_LEASE: Final = 4 * _PAGES_PER_KEY
"""The levels of an index and the page of the table, with dead versions of the row."""
_many_rows = partial(PlanCase, extra_rows=DEAD_ROWS, pages_per_row=_PAGES_PER_KEY)

_FROM_MIDDLE: Mapping[str, object] = {"p_after_queued_at": "middle", "p_after_id": "middle"}
_CHOICES: Mapping[str, Mapping[str, object]] = {
    "all": {},
    "one status": {"p_statuses": [4]},
    "one mode": {"p_modes": [2]},
    "one of each": {"p_statuses": [3], "p_modes": [1]},
    "from the middle": _FROM_MIDDLE,
    "of a range": {**_FROM_MIDDLE, "p_queued_from": "middle"},
    "the most at once": {"p_limit": 1_001},
}

CASES: Final[Mapping[str, PlanCase]] = {
    "INSERT_RUN": PlanCase("INSERT_RUN", {_NAME}),
    "GET_RUN": PlanCase("GET_RUN", {KEY}),
    "GET_RUN_BY_RUN_ID": PlanCase("GET_RUN_BY_RUN_ID", {_NAME}),
    "TRANSITION_RUN": PlanCase("TRANSITION_RUN", {KEY}),
    "TRANSITION_RUN_AT_VERSION": PlanCase("TRANSITION_RUN_AT_VERSION", {KEY}),
    "TRANSITION_RUN_THROUGH": PlanCase("TRANSITION_RUN_THROUGH", {KEY}),
    "FIND_RUN_BY_RUN_ID": PlanCase("FIND_RUN_BY_RUN_ID", {_NAME}),
    "FIND_TRANSITION": PlanCase("FIND_TRANSITION", {TRANSITION}),
    "LIST_EVENTS": PlanCase("LIST_EVENTS", {KEY, LOG}),
    "RUN_METRICS": PlanCase("RUN_METRICS", {_DEPTH, _BY_STATUS}, extra_rows=3 * 1_000),
    # An event is read only for runs that may have no attempt left.
    # The byte budget looks up each run's size once more; PostgreSQL 15 reads more pages for it than 18.
    "LEASE_RUNS": _many_rows("LEASE_RUNS", {_PENDING, KEY, LOG}, pages_per_row=_PAGES_PER_LEASE),
    "LEASE_RUNS, last attempt": _many_rows(
        "LEASE_RUNS", {_PENDING, KEY, LOG}, {"p_attempts_max": 1}, pages_per_row=_PAGES_PER_LEASE
    ),
    "LEASE_RUNS_OF_TENANT": _many_rows("LEASE_RUNS_OF_TENANT", {_PENDING, KEY, LOG}, pages_per_row=_PAGES_PER_LEASE),
    "FIND_LEASED_RUNS": _many_rows("FIND_LEASED_RUNS", {TRANSITION, KEY, LOG}, {"p_transition_id": "leased"}),
    "LIST_EXPIRED_RUNS": _many_rows("LIST_EXPIRED_RUNS", {_LEASED, KEY, LOG}, {"p_tenant_id": None}),
    "BRING_RUNS_FORWARD": _many_rows("BRING_RUNS_FORWARD", {_PENDING, KEY}, {"p_tenant_id": None}),
    **{
        name: _many_rows(name, {index})
        for name, index in {
            "FINISH_RUNS": KEY,
            "TAKE_OVER_RUNS": KEY,
            "RENEW_RUNS": KEY,
            "FIND_TRANSITIONED": TRANSITION,
            "GET_STATES": KEY,
        }.items()
    },
    **{
        f"{verb}_BY_{key}, {what}": PlanCase(
            f"{verb}_BY_{key}",
            # A list finds its rows by key in the scans; their pages count with its own.
            {index, KEY} if verb == "LIST" else {index},
            arguments,
            pages_per_row=_SCANS + _PAGES_PER_KEY if verb == "LIST" else 1,
            scans=_SCANS,
        )
        for verb in ("LIST", "COUNT")
        for key, index in (("TENANT", _BY_STATUS), ("POLICY", _BY_POLICY))
        for what, arguments in _CHOICES.items()
    },
}


async def _start(connection: Connection, *, all_tenants: bool) -> Start:
    """Build a lease of fifteen runs; two of them are no emergencies."""
    priority, shares = (2, {KNOWN: 7, NEW: 6}) if all_tenants else (1, {NEW: 13})
    oldest = (
        "SELECT id FROM scheduler.policy_runs WHERE tenant_id = $1 AND status = 0 AND priority = $2"
        " ORDER BY available_at LIMIT $3"
    )
    expected = set()
    if not all_tenants:
        await connection.execute("UPDATE scheduler.policy_runs SET priority = 1 WHERE priority = 2 AND status = 0")
        # Two of the fifteen runs are the normal ones that have waited for longest.
        expected |= {row[0] for row in await connection.fetch(oldest, NEW, 0, 2)}
    for tenant, share in shares.items():
        expected |= {row[0] for row in await connection.fetch(oldest, tenant, priority, share)}
        expected |= {row[0] for row in await connection.fetch(oldest, tenant, 1, 1 if all_tenants else 0)}
    arguments = {
        "p_lease_owner": "owner",
        "p_lease_duration": timedelta(minutes=1),
        "p_attempts_max": 5,
        "p_limit": 15,
        "p_event_payload": "{}",
        "p_rotation_offset": 1,
        "p_apart_after": 4,
        "p_after_tenant_id": "",
        "p_after_emergency_tenant_id": "",
        "p_tenant_id": NEW,
    }
    return Start(acquire.LEASE_RUNS if all_tenants else acquire.LEASE_RUNS_OF_TENANT, arguments, expected)


class PolicyRunPlans(Plans):
    """Two tenants of 50,000 runs: six statuses, three modes and three priorities in turn, and five policies."""

    table, events = "policy_runs", "policy_run_events"
    statements = statements_of(single, lists, acquire, expired, finish)
    cases = CASES
    acquire: ClassVar[ModuleType] = acquire
    across_tenants: ClassVar[set[str]] = {"LEASE_RUNS", "FIND_LEASED_RUNS", "LIST_EXPIRED_RUNS", "BRING_RUNS_FORWARD"}
    starts: ClassVar[Mapping[str, Any]] = {
        "all tenants": partial(_start, all_tenants=True),
        "one tenant": partial(_start, all_tenants=False),
    }
    page_factor = 1.1
    places_per_loop = True

    @override
    async def fill(self, connection: Connection, tenant: str, first: int) -> None:
        await connection.execute(
            """
            INSERT INTO scheduler.policy_runs (id, tenant_id, run_id, policy_id, mode, priority, status, attempts,
                queued_at, available_at, last_attempt_at, lease_owner, lease_expires_at, payload)
            SELECT lpad(to_hex(n), 32, '0')::uuid, $1, 'run ' || n, 'policy ' || n % 5, n / 6 % 3, n / 18 % 3, n % 6,
                n % 6 / 5, now() - n * interval '1 second', now() - n * interval '1 second',
                CASE WHEN n % 6 > 0 THEN now() - n * interval '1 second' END,
                CASE WHEN n % 6 = 1 THEN 'owner' END,
                CASE WHEN n % 6 = 1 THEN now() + (n % 2 * 2 - 1) * interval '1 hour' END, $2::text::jsonb
            FROM generate_series($3::int, $3::int + $4::int - 1) n
            """,
            tenant,
            policy_run(tenant).payload_json(),
            first,
            ROWS,
        )
        await connection.execute(
            """
            INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload)
            SELECT id, tenant_id, status, $2::text::jsonb || jsonb_build_object('transitionId', id)
            FROM scheduler.policy_runs WHERE tenant_id = $1
            """,
            tenant,
            event_payload("pending", "dispatching", uuid.UUID(int=0), "dispatcher host-1/4711", attempts=1),
        )

    @override
    async def usual_arguments(self, connection: Connection, case: PlanCase, tenant: str) -> Mapping[str, object]:
        last = ROWS if tenant == KNOWN else 2 * ROWS
        middle = uuid.UUID(int=last - ROWS // 2)
        time = await connection.fetchval("SELECT queued_at FROM scheduler.policy_runs WHERE id = $1", middle)
        oldest_leased = last - (last - 1) % 6
        leased = [uuid.UUID(int=oldest_leased - 6 * number) for number in range(LIMIT)]
        values: dict[str, object] = {
            **run_params(policy_run(tenant)),
            **dict.fromkeys(("p_event_payload", "p_through_event_payload"), "{}"),
            "p_through_status": 2,
            "p_expected_status": 0,
            "p_expected_lease_owner": None,
            "p_expected_attempts": 0,
            "p_expected_version": AT,
            "p_limit": LIMIT,
            "p_after_event_id": 0,
            "p_transition_id": str(middle),
            "p_statuses": [0, 1, 2, 3, 4, 5],
            "p_modes": [0, 1, 2],
            "p_queued_from": datetime(1, 1, 2, tzinfo=UTC),
            "p_after_queued_at": datetime(9999, 12, 30, tzinfo=UTC),
            "p_after_id": uuid.UUID(int=2**128 - 1),
            "p_window": timedelta(days=366),
            "p_after_tenant_id": "",
            "p_after_attempt_at": datetime.min.replace(tzinfo=UTC),
            "p_after_emergency_tenant_id": "",
            "p_completed_limit": 1_000,
            "p_lease_duration": timedelta(minutes=1),
            "p_attempts_max": 5,
            "p_rotation_offset": 7,
            "p_apart_after": 4,
            "p_job_ids": leased,
            "p_tenant_ids": [tenant] * LIMIT,
            "p_distinct_tenant_ids": [tenant],
            "p_lease_attempts": [0] * LIMIT,
            "p_lease_owners": ["owner"] * LIMIT,
            "p_versions": [AT] * LIMIT,
            "p_new_statuses": [2] * LIMIT,
            "p_delays": [timedelta(0)] * LIMIT,
            "p_last_errors": [None] * LIMIT,
            "p_event_payloads": ["{}"] * LIMIT,
        }
        if case.statement == "RUN_METRICS":
            values |= lists.metric_params()
        if case.statement in ("FIND_LEASED_RUNS", "LEASE_RUNS", "LEASE_RUNS_OF_TENANT"):
            values["p_lease_owner"] = "owner"
        if case.statement not in ("INSERT_RUN",):
            values |= {"p_job_id": middle, "p_run_id": f"run {middle.int}", "p_policy_id": "policy 1"}
        middles = {"p_after_queued_at": time, "p_after_id": middle, "p_queued_from": time - timedelta(hours=1)}
        return {
            **values,
            **{
                name: middles[name] if value == "middle" else str(leased[0]) if value == "leased" else value
                for name, value in case.arguments.items()
            },
        }
