"""The expected plan of each statement on graph jobs."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, Final

from typing_extensions import override

from graphjobs.core import notifications
from graphjobs.graph_jobs.sql import acquire, finish, lists, single, stalled
from tests.builders import AT, build_job
from tests.contract.plans import DEAD_ROWS, KNOWN, LIMIT, NEW, ROWS, Connection, PlanCase, Plans, Start, statements_of

TIES: Final = 20
"""The number of rows with the same time."""
BUSY_JOB: Final = uuid.UUID(int=1)
"""A job that was renewed a few thousand times."""
KEY: Final = "graph_jobs_pkey"
LOG: Final = "idx_graph_job_events_log"
_LOG_014: Final = "idx_graph_job_events_job"
TRANSITION: Final = "idx_graph_job_events_transition"
_BY_STATUS: Final = "idx_graph_jobs_tenant_status"
_BY_TYPE: Final = "idx_graph_jobs_tenant_type_status"
_BY_CORRELATION: Final = "idx_graph_jobs_tenant_correlation"
_JOB: Final = ROWS // 2
_PAGES_PER_KEY: Final = 6
"""The levels of an index and the page of the table, with dead versions of the row."""
_many_rows = partial(PlanCase, extra_rows=DEAD_ROWS, pages_per_row=_PAGES_PER_KEY)

_ONE: Mapping[str, object] = {"p_statuses": [1]}
_TWO: Mapping[str, object] = {"p_statuses": [0, 1]}
_FROM_MIDDLE: Mapping[str, object] = {"p_after_created_at": "middle", "p_after_id": "middle"}
_RANGE: Mapping[str, object] = {**_FROM_MIDDLE, "p_created_from": "middle"}
_LONGEST: Mapping[str, object] = {"p_limit": 1_001}
_RUNNING: Mapping[str, object] = {"p_job_ids": "running", "p_tenant_ids": "tenant of each job"}

CASES: Final[Mapping[str, PlanCase]] = {
    "INSERT_JOB": PlanCase("INSERT_JOB", set()),
    "INSERT_JOB_WITH_EVENT": PlanCase("INSERT_JOB_WITH_EVENT", set()),
    "INSERT_JOBS_WITH_EVENTS": PlanCase("INSERT_JOBS_WITH_EVENTS", set()),
    "REPLACE_JOB": PlanCase("REPLACE_JOB", {KEY}),
    "REPLACE_JOB_AT_VERSION": PlanCase("REPLACE_JOB_AT_VERSION", {KEY}),
    "TRANSITION_JOB": PlanCase("TRANSITION_JOB", {KEY}),
    "TRANSITION_JOB_AT_VERSION": PlanCase("TRANSITION_JOB_AT_VERSION", {KEY}),
    "GET_JOB": PlanCase("GET_JOB", {KEY}),
    "GET_ANY_JOB": PlanCase("GET_ANY_JOB", {KEY}),
    "APPEND_EVENT": PlanCase("APPEND_EVENT", {KEY}),
    "LIST_EVENTS": PlanCase("LIST_EVENTS", {KEY, LOG}),
    "FIND_TRANSITION": PlanCase("FIND_TRANSITION", {TRANSITION}),
    "LIST_JOBS": PlanCase("LIST_JOBS", {_BY_TYPE}, instead={_BY_STATUS}),
    "LIST_JOBS_BY_STATUS": PlanCase("LIST_JOBS_BY_STATUS", {_BY_TYPE}, instead={_BY_STATUS}),
    # The oldest queued job is behind the dead versions of those that rolled-back claims took.
    "OVERLAY_LAG": PlanCase("OVERLAY_LAG", {_BY_TYPE}, pages_per_row=20, instead={_BY_STATUS}),
    "NOTIFY_QUEUED": PlanCase("NOTIFY_QUEUED", set()),
    "LIST_TENANTS_WITH_STATUS": PlanCase("LIST_TENANTS_WITH_STATUS", {_BY_TYPE, _BY_STATUS}, instead={_BY_STATUS}),
    # The byte budget looks up each row's size once more; PostgreSQL 15 reads more pages for it than 18.
    # The log is read only for jobs that may be left to run alone.
    "CLAIM_JOBS": _many_rows("CLAIM_JOBS", {_BY_TYPE, KEY, LOG}, pages_per_row=3 * _PAGES_PER_KEY, instead={_LOG_014}),
    "FIND_CLAIMED_JOBS": _many_rows("FIND_CLAIMED_JOBS", {TRANSITION, KEY}, {"p_transition_id": "of a claim"}),
    **{
        name: _many_rows(name, {index}, _RUNNING)
        for name, index in {
            "FINISH_JOBS": KEY,
            "FINISH_JOBS_WITH_FOLLOWUPS": KEY,
            "TAKE_OVER_JOBS": KEY,
            "RENEW_JOBS": KEY,
            "FIND_TRANSITIONED": TRANSITION,
            "GET_STATES": KEY,
        }.items()
    },
    # The tenants after this one are read, too; the second index has the next tenant.
    "LIST_STALLED_JOBS": _many_rows("LIST_STALLED_JOBS", {_BY_TYPE, _BY_STATUS, KEY, LOG}, instead={_LOG_014}),
    "LIST_STALLED_JOBS_OF_TENANT": _many_rows(
        "LIST_STALLED_JOBS_OF_TENANT", {_BY_TYPE, KEY, LOG}, instead={_BY_STATUS, _LOG_014}
    ),
    **{
        f"{verb}_BY_{key}, {what}": PlanCase(
            f"{verb}_BY_{key}", {index}, arguments, instead={_BY_STATUS} if index == _BY_TYPE else set()
        )
        for verb in ("LIST", "COUNT")
        for key, index, choices in (
            ("TENANT", _BY_STATUS, {"one status": _ONE, "two": _TWO}),
            ("TYPE", _BY_TYPE, {"one status": _ONE, "two": _TWO}),
            ("CORRELATION", _BY_CORRELATION, {}),
        )
        for what, arguments in {
            **choices,
            "all": {},
            "from the middle": _FROM_MIDDLE,
            "of a range": _RANGE,
            "the most at once": _LONGEST,
            **{f"{choice} from the middle": {**chosen, **_FROM_MIDDLE} for choice, chosen in choices.items()},
        }.items()
    },
}


async def _start_of_two_tenants(connection: Connection) -> Start:
    """Build a claim with different shares of two tenants; their oldest jobs have times without ties."""
    shares = {KNOWN: 7, NEW: 5}
    oldest = (
        "SELECT id FROM (SELECT id, created_at, row_number() OVER (PARTITION BY tenant_id ORDER BY created_at) AS place"
        " FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = 0 AND status = 0) AS job WHERE place <= $2"
    )
    expected = set()
    for tenant, share in shares.items():
        await connection.execute(
            "UPDATE scheduler.graph_jobs SET created_at = created_at - interval '1 year'"
            " - abs(hashtext(id::text)) * interval '1 microsecond' WHERE tenant_id = $1 AND id = ANY("
            "ARRAY(SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = 0 AND status = 0 LIMIT $2))",
            tenant,
            3 * share,
        )
        expected |= {row[0] for row in await connection.fetch(oldest, tenant, share)}
    arguments = {"p_tenant_ids": list(shares), "p_shares": list(shares.values()), "p_type": 0}
    arguments |= {"p_event_payload": "{}", "p_apart_after": 2}
    return Start(acquire.CLAIM_JOBS, arguments, expected)


class GraphJobPlans(Plans):
    """Two tenants of 50,000 jobs: twenty of each time, and two thirds in one of two correlations."""

    table, events = "graph_jobs", "graph_job_events"
    statements = statements_of(single, lists, acquire, stalled, finish, notifications)
    cases = CASES
    acquire: ClassVar[ModuleType] = acquire
    across_tenants: ClassVar[set[str]] = {"LIST_TENANTS_WITH_STATUS", "LIST_STALLED_JOBS"}
    starts: ClassVar[Mapping[str, Any]] = {"two tenants": _start_of_two_tenants}

    @override
    async def fill(self, connection: Connection, tenant: str, first: int) -> None:
        await connection.execute(
            """
            INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
            SELECT lpad(to_hex(n), 32, '0')::uuid, $1, n / 5 % 2, n % 5, $2::text::jsonb,
                now() - n / $5::int * interval '1 minute', nullif('correlation ' || n % 3, 'correlation 0')
            FROM generate_series($3::int, $3::int + $4::int - 1) n
            """,
            tenant,
            build_job(tenant, created_at=AT).to_json(),
            first,
            ROWS,
            TIES,
        )
        await connection.execute(
            """
            INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)
            SELECT id, tenant_id, status, jsonb_build_object('transitionId', id, 'attempts', 0)
            FROM scheduler.graph_jobs WHERE tenant_id = $1
            """,
            tenant,
        )
        if tenant == KNOWN:
            await connection.execute(
                "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)"
                " SELECT $1, $2, 1, '{}' FROM generate_series(1, $3::int)",
                BUSY_JOB,
                KNOWN,
                ROWS // 4,
            )

    @override
    async def usual_arguments(self, connection: Connection, case: PlanCase, tenant: str) -> Mapping[str, object]:
        job = uuid.UUID(int=_JOB if tenant == KNOWN else _JOB + ROWS)
        time = await connection.fetchval("SELECT created_at FROM scheduler.graph_jobs WHERE id = $1", job)
        fresh = [uuid.UUID(int=2**64 + number) for number in range(LIMIT)]
        # The oldest jobs: the dead rows of rolled-back writes are not in the way of lists of the newest.
        last = ROWS if tenant == KNOWN else 2 * ROWS
        running = [uuid.UUID(int=last - 9 - 10 * number) for number in range(LIMIT)]
        values: dict[str, object] = {
            "p_job_id": job,
            "p_tenant_id": tenant,
            "p_type": 0,
            "p_status": 1,
            "p_payload": "{}",
            "p_event_payload": "{}",
            "p_created_at": AT,
            "p_correlation_id": "correlation 1",
            "p_expected_status": 0,
            "p_expected_attempts": 0,
            "p_expected_version": AT,
            "p_limit": LIMIT,
            "p_after_event_id": 0,
            "p_transition_id": str(job),
            "p_job_ids": fresh,
            **{name: [0] * LIMIT for name in ("p_types", "p_new_statuses")},
            **{name: ["{}"] * LIMIT for name in ("p_payloads", "p_event_payloads")},
            "p_created_ats": [AT] * LIMIT,
            "p_correlation_ids": [None] * LIMIT,
            "p_statuses": [0, 1, 2, 3, 4, -1, 5],
            "p_created_from": datetime(1, 1, 2, tzinfo=UTC),
            "p_after_created_at": datetime(9999, 12, 30, tzinfo=UTC),
            "p_after_id": uuid.UUID(int=2**128 - 1),
            "p_window": timedelta(days=366),
            "p_completed_limit": LIMIT,
            "p_after_tenant_id": tenant if case.statement == "LIST_STALLED_JOBS" else "",
            "p_tenant_ids": [tenant],
            "p_distinct_tenant_ids": [tenant],
            "p_shares": [LIMIT],
            "p_apart_after": 2,
            "p_lease": timedelta(microseconds=1),
            "p_attempts": [0] * LIMIT,
            "p_versions": [AT] * LIMIT,
            "p_parent_ids": running,
            "p_followup_ids": fresh,
            **{name: ["{}"] * LIMIT for name in ("p_followup_payloads", "p_followup_event_payloads")},
        }
        placeholders = {
            "middle": {"p_after_created_at": time, "p_after_id": job, "p_created_from": time - timedelta(days=1)},
            "running": {"p_job_ids": running},
            "tenant of each job": {"p_tenant_ids": [tenant] * LIMIT},
            "of a claim": {"p_transition_id": str(running[0])},
        }
        return {
            **values,
            **{
                name: placeholders[value][name] if isinstance(value, str) else value
                for name, value in case.arguments.items()
            },
        }
