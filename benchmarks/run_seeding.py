"""What the table of policy runs holds before anything is timed: runs as a scheduler would have them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from immutabledict import immutabledict
from uuid_utils.compat import uuid7

from benchmarks.seeding import copied, texts_around
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob, PolicyRunRequest
from graphjobs.policy_runs.sql.single import COLUMNS
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.policy_runs.tables import PolicyRunRow

Status = PolicyRunStatus

OWNER: Final = "dispatcher-1@bench"
"""Who leases what is dispatching."""

LEASED_FOR: Final = timedelta(hours=8)
"""So long a lease of his lasts: no benchmark sees it run out."""

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
"""A tenant's runs go through these in turn; through modes and policies, too, whose numbers are coprime with theirs."""

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
_AT_ONCE: Final = 2
"""So many connections copy: a run's payload is large, and the server has to read it."""

POLICY: Final = _POLICIES[0]
"""One in seven of a tenant's runs is of it."""


class Spread(NamedTuple):
    """When the runs of a tenant were asked for: one after the other, at equal distances; the last one just now."""

    first: datetime
    between: timedelta

    @classmethod
    def of(cls, count: int, *, between: timedelta = _BETWEEN) -> Self:
        """Gives that of so many runs."""
        return cls(datetime.now(UTC) - count * between, between)

    def __call__(self, number: int) -> datetime:
        """Gives the time of the run of a number."""
        return self.first + number * self.between


def pending_run(tenant_id: str, number: int, *, queued_at: datetime | None = None) -> PolicyRunJob:
    """A pending run as whoever asks for it makes it, with what such runs carry filled in."""
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
    return request.to_run(run_id=name_of(tenant_id, number), available_at=at, created_at=at, updated_at=at)


def run_in(status: PolicyRunStatus, tenant_id: str, number: int, *, queued_at: datetime | None = None) -> PolicyRunJob:
    """A run that was moved to a status the way a dispatcher moves it."""
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


def record_of(run: PolicyRunJob) -> tuple[object, ...]:
    """A run as a record of the table, in the order of `COLUMNS`."""
    coded = {"mode": run.mode.code, "priority": run.priority.code, "status": run.status.code}
    given = {**coded, "payload": run.payload_json()}
    return tuple(given[name] if name in given else getattr(run, name) for name in COLUMNS)


async def store_runs(url: str, runs: Iterable[PolicyRunJob]) -> None:
    """Copies runs into the table, and has it analysed."""
    await copied(url, TABLE, COLUMNS, map(record_of, runs))


async def store_mixed_runs(url: str, tenants: Sequence[str], count: int) -> Spread:
    """Copies runs of all statuses into the table, of these tenants in turns, and has it analysed.

    There are too many to make a value of each: one real run of each status is the pattern; ids, names, policies, modes,
    priorities and times differ.

    Returns:
        When they were asked for.
    """
    at = Spread.of(count)
    patterns = [_Pattern.of(run_in(status, tenants[0], 0, queued_at=at(0))) for status in _STATUSES]

    def records() -> Iterator[tuple[object, ...]]:
        for place, (tenant, number) in enumerate(_in_turns(tenants, count)):
            pattern, priority = patterns[number % len(patterns)], _PRIORITIES[number % len(_PRIORITIES)]
            yield pattern.record(tenant, number, at(place), priority)

    await copied(url, TABLE, COLUMNS, records(), at_once=_AT_ONCE)
    return at


async def store_pending(url: str, tenants: Sequence[str], count: int, at: Spread, *, high_each: int = 0) -> None:
    """Copies pending runs into the table, of these tenants in turns, and has it analysed.

    Args:
        url: of the database.
        tenants: whose.
        count: of all tenants together.
        at: when they were asked for, and available.
        high_each: of so many runs of a tenant one is of high priority, the others are normal; 0 means all are.
    """
    pattern = _Pattern.of(pending_run(tenants[0], 0))

    def records() -> Iterator[tuple[object, ...]]:
        for place, (tenant, number) in enumerate(_in_turns(tenants, count)):
            is_high = high_each and number % high_each == 0
            priority = PolicyRunPriority.HIGH if is_high else PolicyRunPriority.NORMAL
            yield pattern.record(tenant, number, at(place), priority)

    await copied(url, TABLE, COLUMNS, records(), at_once=_AT_ONCE)


def _in_turns(tenants: Sequence[str], count: int) -> Iterator[tuple[str, int]]:
    """Whose each run is, and its number among his."""
    for place in range(count):
        number, turn = divmod(place, len(tenants))
        yield tenants[turn], number


_AT: Final = {name: place for place, name in enumerate(COLUMNS)}
_TIMES: Final = tuple(_AT[name] for name in ("queued_at", "available_at", "created_at"))


class _Pattern(NamedTuple):
    """A real run as a record, how long it took to where it is, and what stands in its payload around what differs."""

    record_of_it: tuple[object, ...]
    took: timedelta
    texts: tuple[str, str, str]

    @classmethod
    def of(cls, run: PolicyRunJob) -> Self:
        first, second, last = texts_around(run.payload_json(), str(run.correlation_id), f"{0:040x}")
        return cls(record_of(run), run.updated_at - run.queued_at, (first, second, last))

    def record(
        self, tenant_id: str, number: int, queued_at: datetime, priority: PolicyRunPriority
    ) -> tuple[object, ...]:
        columns = list(self.record_of_it)
        first, second, last = self.texts
        columns[_AT["id"]] = uuid7()
        columns[_AT["tenant_id"]] = tenant_id
        columns[_AT["run_id"]] = name_of(tenant_id, number)
        columns[_AT["policy_id"]] = _POLICIES[number % len(_POLICIES)]
        columns[_AT["mode"]] = _MODES[number % len(_MODES)].code
        columns[_AT["priority"]] = priority.code
        for place in _TIMES:
            columns[place] = queued_at
        columns[_AT["updated_at"]] = queued_at + self.took
        columns[_AT["payload"]] = f"{first}{_correlation_of(number)}{second}{number:040x}{last}"
        return tuple(columns)


def _correlation_of(number: int) -> str:
    return f"release-{number:012d}"


def name_of(tenant_id: str, number: int) -> str:
    """The asker's own name of the run of a number; it ends with that."""
    return f"run:{tenant_id}:{number:09d}"
