"""Seed the table of policy runs with realistic runs."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from immutabledict import immutabledict
from uuid_utils.compat import uuid7

from benchmarks.seeding import copy_records, texts_around
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.requests import PolicyRunRequest
from graphjobs.policy_runs.sql.single import COLUMNS
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunRow

Status = PolicyRunStatus

OWNER: Final = "dispatcher-1@bench"
"""The owner of all leases."""

LEASED_FOR: Final = timedelta(hours=8)
"""The length of a lease; none expires during a benchmark."""

TABLE: Final = PolicyRunRow.__tablename__
_BETWEEN: Final = timedelta(milliseconds=2_741)
_STATUSES: Final = (
    *[Status.PENDING] * 2,
    Status.DISPATCHING,
    Status.SUBMITTED,
    *[Status.COMPLETED] * 4,
    Status.FAILED,
    Status.CANCELED,
)
"""A tenant's runs have these in turn, and modes and policies in turn too; their numbers are coprime."""

_MODES: Final = tuple(PolicyRunMode)
_POLICIES: Final = tuple(f"registry.example.org/policies/admission-{number}" for number in range(7))
_PRIORITIES: Final = (*[PolicyRunPriority.NORMAL] * 8, *[PolicyRunPriority.HIGH] * 2, PolicyRunPriority.EMERGENCY)
_SBOMS: Final = tuple(f"registry.example.org/payments/checkout-{number}@2026.1" for number in range(6))
_ENVIRONMENT: Final[dict[str, Any]] = {
    "cluster": {"name": "eu-central-1a-production", "region": "eu-central-1", "tier": "critical", "nodes": 212},
    "exposure": {"internetFacing": True, "ingress": ["checkout.payments.example.org", "api.payments.example.org"]},
    "thresholds": {"cvss": 7.5, "epss": 0.35, "ageDaysMax": 30, "unreachableCountsAs": "low", "kev": "block"},
    "waivers": [
        {"cve": f"CVE-2025-{10_000 + number}", "until": "2026-06-30", "by": "security@payments.example.org"}
        for number in range(7)
    ],
    "labels": {"team": "payments", "costCentre": "4711-082", "dataClass": "pci", "slo": "99.95"},
}
"""About 1 KB of JSON."""

_INPUTS: Final = PolicyRunInputs(sbom_set=_SBOMS, environment=immutabledict(_ENVIRONMENT), capture_explain=True)
_CONNECTIONS: Final = 2
"""The number of connections that copy: the payload of a run is large, and the server is the slower side."""

POLICY: Final = _POLICIES[0]
"""The policy of one in seven of a tenant's runs."""


class Spread(NamedTuple):
    """The times at which the runs of a tenant were queued, at equal intervals until now."""

    first: datetime
    between: timedelta

    @classmethod
    def of(cls, count: int, *, between: timedelta = _BETWEEN) -> Self:
        """Return the spread of `count` runs."""
        return cls(datetime.now(UTC) - count * between, between)

    def __call__(self, number: int) -> datetime:
        """Return the time of a run by its number."""
        return self.first + number * self.between


def pending_run(tenant_id: str, number: int, *, queued_at: datetime | None = None) -> PolicyRunJob:
    """Build a pending run with the typical fields of a request."""
    at = queued_at or datetime.now(UTC)
    request = PolicyRunRequest(
        tenant_id=tenant_id,
        policy_id=_POLICIES[number % len(_POLICIES)],
        policy_version=17,
        mode=_MODES[number % len(_MODES)],
        requested_by="ci@payments.example.org",
        correlation_id=_correlation_of(number),
        metadata={"branch": "main", "commit": f"{number:040x}", "pipeline": "release", "trigger": "sbom-version"},
        inputs=_INPUTS,
        queued_at=at,
    )
    return request.to_run(run_id=run_id_for(tenant_id, number), available_at=at, created_at=at, updated_at=at)


def run_in_status(
    status: PolicyRunStatus, tenant_id: str, number: int, *, queued_at: datetime | None = None
) -> PolicyRunJob:
    """Build a run in a status, with the transitions of a dispatcher."""
    run = pending_run(tenant_id, number, queued_at=queued_at)
    leased_at = run.queued_at + timedelta(seconds=3)
    ended_at = leased_at + timedelta(seconds=42)
    match status:
        case Status.PENDING:
            return run
        case Status.CANCELED:
            return run.request_cancellation(at=leased_at, reason="superseded by a newer version of the policy")
    leased = run.lease(at=leased_at, owner=OWNER, until=datetime.now(UTC) + LEASED_FOR)
    match status:
        case Status.DISPATCHING:
            return leased
        case Status.FAILED:
            return leased.fail(at=ended_at, error="TimeoutError: the engine did not answer within 30 seconds")
    submitted = leased.submit(at=leased_at)
    return submitted.complete(at=ended_at) if status is Status.COMPLETED else submitted


def run_record(run: PolicyRunJob) -> tuple[object, ...]:
    """Return a run as a record of the table, in the order of `COLUMNS`."""
    encoded: dict[str, object] = {"mode": run.mode.code, "priority": run.priority.code, "status": run.status.code}
    encoded["payload"] = run.payload_json()
    return tuple(encoded[name] if name in encoded else getattr(run, name) for name in COLUMNS)


async def store_runs(url: str, runs: Iterable[PolicyRunJob]) -> None:
    """Copy runs into the table, and analyze it."""
    await copy_records(url, TABLE, COLUMNS, map(run_record, runs))


async def store_mixed_runs(url: str, tenants: Sequence[str], count: int) -> Spread:
    """Copy runs of all statuses into the table, of these tenants in turns, and analyze it.

    One real run of each status is the pattern, since a value per row would take too long; ids, run ids, policies,
    modes, priorities and times differ.

    Returns:
        The times at which the runs were queued.
    """
    at = Spread.of(count)
    patterns = [_Pattern.of(run_in_status(status, tenants[0], 0, queued_at=at(0))) for status in _STATUSES]

    def records() -> Iterator[tuple[object, ...]]:
        for place, (tenant, number) in enumerate(_in_turns(tenants, count)):
            pattern, priority = patterns[number % len(patterns)], _PRIORITIES[number % len(_PRIORITIES)]
            yield pattern.record(tenant, number, at(place), priority)

    await copy_records(url, TABLE, COLUMNS, records(), connections=_CONNECTIONS)
    return at


async def store_pending(url: str, tenants: Sequence[str], count: int, at: Spread, *, high_each: int = 0) -> None:
    """Copy pending runs into the table, of these tenants in turns, and analyze it.

    Args:
        url: the URL of the database.
        tenants: the tenants.
        count: the number of runs of all tenants together.
        at: the times at which the runs were queued and available.
        high_each: every n-th run of a tenant has high priority; 0 means that all have normal priority.
    """
    pattern = _Pattern.of(pending_run(tenants[0], 0))

    def records() -> Iterator[tuple[object, ...]]:
        for place, (tenant, number) in enumerate(_in_turns(tenants, count)):
            is_high = high_each and number % high_each == 0
            priority = PolicyRunPriority.HIGH if is_high else PolicyRunPriority.NORMAL
            yield pattern.record(tenant, number, at(place), priority)

    await copy_records(url, TABLE, COLUMNS, records(), connections=_CONNECTIONS)


def _in_turns(tenants: Sequence[str], count: int) -> Iterator[tuple[str, int]]:
    """Yield the tenant of each run, and the number of the run within the tenant."""
    for place in range(count):
        number, turn = divmod(place, len(tenants))
        yield tenants[turn], number


_AT: Final = {name: place for place, name in enumerate(COLUMNS)}
_TIMES: Final = tuple(_AT[name] for name in ("queued_at", "available_at", "created_at"))


class _Pattern(NamedTuple):
    """A real run as a record, the time from queued to its last update, and the constant parts of its payload."""

    template: tuple[object, ...]
    age: timedelta
    texts: tuple[str, str, str]

    @classmethod
    def of(cls, run: PolicyRunJob) -> Self:
        first, second, last = texts_around(run.payload_json(), str(run.correlation_id), f"{0:040x}")
        return cls(run_record(run), run.updated_at - run.queued_at, (first, second, last))

    def record(
        self, tenant_id: str, number: int, queued_at: datetime, priority: PolicyRunPriority
    ) -> tuple[object, ...]:
        columns = list(self.template)
        first, second, last = self.texts
        columns[_AT["id"]] = uuid7()
        columns[_AT["tenant_id"]] = tenant_id
        columns[_AT["run_id"]] = run_id_for(tenant_id, number)
        columns[_AT["policy_id"]] = _POLICIES[number % len(_POLICIES)]
        columns[_AT["mode"]] = _MODES[number % len(_MODES)].code
        columns[_AT["priority"]] = priority.code
        for place in _TIMES:
            columns[place] = queued_at
        columns[_AT["updated_at"]] = queued_at + self.age
        columns[_AT["payload"]] = f"{first}{_correlation_of(number)}{second}{number:040x}{last}"
        return tuple(columns)


def _correlation_of(number: int) -> str:
    return f"release-{number:012d}"


def run_id_for(tenant_id: str, number: int) -> str:
    """Return the run id of a run by its number, which is its end."""
    return f"run:{tenant_id}:{number:09d}"
