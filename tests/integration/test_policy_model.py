"""Random requests and random histories of policy runs, compared with a model in memory."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs import (
    IllegalTransition,
    InvalidJob,
    PolicyRunInputs,
    PolicyRunJob,
    PolicyRunRepository,
    PolicyRunRequest,
    PolicyRunStatus,
)
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of
from tests.integration.states import MINUTE, ids
from tests.unit.backfill.values import JSON, STORED_TIMES

Status = PolicyRunStatus

_STEPS = 150
_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
_LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n"), min_size=1, max_size=300)


def _with_names(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Build values by their Python names: from the class, hypothesis would also use the names of JSON."""

    def made(**fields: Any) -> Any:
        return kind(**fields)

    return made


_REQUESTS = st.builds(
    _with_names(PolicyRunRequest),
    tenant_id=_TEXT,
    policy_id=_TEXT,
    policy_version=st.none() | st.integers(0, 2**31 - 1),
    mode=st.sampled_from(["full", "incremental", "simulate"]),
    priority=st.sampled_from(["normal", "high", "emergency"]),
    run_id=_TEXT,
    queued_at=st.none() | STORED_TIMES,
    requested_by=st.none() | _TEXT,
    correlation_id=st.none() | _TEXT,
    metadata=st.dictionaries(_TEXT, _LINES, max_size=3),
    inputs=st.builds(
        _with_names(PolicyRunInputs),
        sbom_set=st.lists(_TEXT, min_size=1, max_size=3),
        advisory_cursor=st.none() | STORED_TIMES,
        vex_cursor=st.none() | STORED_TIMES,
        environment=st.dictionaries(_TEXT, JSON, max_size=3),
        capture_explain=st.booleans(),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(_REQUESTS, min_size=1, max_size=4))
async def test_any_request_is_stored_unchanged(storage: Storage, requests: list[PolicyRunRequest]) -> None:
    """Text of any script, numbers up to their bounds, and any datetime are stored."""
    for request in requests:
        run = request.to_run()
        inserted = await storage.policy_runs.insert(run)
        if inserted.id != run.id:  # an earlier example has stored this run id
            continue
        assert run.stored(updated_at=inserted.updated_at, available_at=inserted.available_at) == inserted
        assert inserted == await storage.policy_runs.get_by_run_id(run.tenant_id, run.run_id)
        query = PolicyRunQuery(policy_id=run.policy_id, mode=run.mode, limit=1_000)
        assert inserted in (await storage.policy_runs.list(run.tenant_id, query)).runs


class _Model:
    """The expected runs and their logs; each method makes a call and compares its answer."""

    def __init__(self, runs: PolicyRunRepository, tenant: str, seed: int) -> None:
        self.runs = runs
        self.queue = queue_of(runs)
        self.tenant = tenant
        self.choose = random.Random(seed)  # noqa: S311  # no secret
        self.now: dict[str, PolicyRunJob] = {}
        self.events: dict[str, list[str]] = {}
        self.leases: list[PolicyRunJob] = []

    async def check_random_call(self) -> None:
        """Make a random call, and compare its answer."""
        calls = (self.insert, self.lease, self.lease, self.renew, self.end, self.end, self.replace, self.replace)
        await self.choose.choice(calls)()

    def _record(self, run: PolicyRunJob) -> None:
        self.now[run.run_id] = run
        self.events.setdefault(run.run_id, []).append(run.status)

    async def insert(self) -> None:
        """Insert a run with a new or a stored run id."""
        name = f"run {self.choose.randrange(6)}"
        run = policy_run(self.tenant, run_id=name, priority=self.choose.choice(["normal", "high"]))
        inserted = await self.runs.insert(run)
        if name in self.now:
            assert self.now[name] == inserted
        else:
            assert run.stored(updated_at=inserted.updated_at, available_at=inserted.available_at) == inserted
            self._record(inserted)

    async def lease(self) -> None:
        """Lease a run if one is pending."""
        owner = self.choose.choice(["a", "b"])
        leased = await self.queue.lease(owner, MINUTE, attempts_max=99_999, limit=1, tenant_id=self.tenant)
        pending = [run for run in self.now.values() if run.status is Status.PENDING]
        assert bool(pending) == bool(leased.runs)
        for run in leased.runs:
            before = self.now[run.run_id]
            assert before in pending
            assert run.last_attempt_at is not None
            assert run.lease_expires_at is not None
            expected = before.lease(at=run.last_attempt_at, owner=owner, until=run.lease_expires_at)
            assert expected.stored(updated_at=run.updated_at) == run
            self._record(run)
            self.leases.append(run)

    def _choose_leases(self) -> list[PolicyRunJob]:
        """Choose earlier leases, some of which are lost, at most one of each run."""
        chosen = self.choose.sample(self.leases, min(3, len(self.leases)))
        return list({run.id: run for run in chosen}.values())

    def _matches(self, run: PolicyRunJob) -> bool:
        """Return whether status, attempts and owner are those of the run now."""
        now = self.now[run.run_id]
        return (now.status, now.attempts, now.lease_owner) == (run.status, run.attempts, run.lease_owner)

    async def renew(self) -> None:
        """Renew leases: those that are lost are reported."""
        leases = self._choose_leases()
        renewed = await self.queue.renew(leases, MINUTE)
        assert ids(run for run in leases if self._matches(run)) == ids(renewed.runs)
        assert {run.id for run in leases if not self._matches(run)} == renewed.lost
        for run in renewed.runs:
            assert self.now[run.run_id].updated_at < run.updated_at
            self.now[run.run_id] = run

    async def end(self) -> None:
        """Store lease results: those of lost leases are reported."""
        kinds = (
            LeaseResult.submitted,
            LeaseResult.released,
            LeaseResult.canceled,
            lambda run: LeaseResult.failed(run, "broken"),
        )
        results = [self.choose.choice(kinds)(run) for run in self._choose_leases()]
        finished = await self.queue.end(results)
        stored = [result for result in results if self._matches(result.job)]
        lost = [result for result in results if result not in stored]
        assert ({result.job.id for result in stored}, frozenset()) == (set(finished.versions), finished.busy)
        assert {result.job.id for result in lost} == set(finished.lost)
        for result in stored:
            requested = self.now[result.job.run_id].cancellation_requested
            canceled = requested and result.status is not Status.SUBMITTED
            run = await self.runs.get(self.tenant, result.job.id)
            assert run is not None
            assert (Status.CANCELED if canceled else result.status) is run.status
            assert finished.versions[run.id] == run.updated_at
            self._record(run)

    async def replace(self) -> None:
        """Update a run from its value now, or from that of an earlier lease."""
        values = [*self.now.values(), *self.choose.sample(self.leases, min(2, len(self.leases)))]
        if not values:
            return
        before = self.choose.choice(values)
        transitions = (
            lambda run: run.request_cancellation(at=AT),
            lambda run: run.release(at=AT, available_at=AT),
            lambda run: run.complete(at=AT),
            lambda run: run.fail(at=AT, error="by hand"),
            lambda run: run.cancel(at=AT),
        )
        try:
            target = self.choose.choice(transitions)(before)
        except (InvalidJob, IllegalTransition):
            return
        if target is before:
            return
        now = self.now[before.run_id]
        fits = self._matches(before)
        if target.status is before.status:
            fits = fits and now.updated_at == before.updated_at
        if target.status is Status.PENDING:
            fits = fits and not now.cancellation_requested
        result = await self.runs.replace(target, before.lease_owner)
        assert fits == result.applied, (now, before, target, result)
        assert result.job is not None
        assert result.job == await self.runs.get(self.tenant, before.id)
        if result.applied:
            assert result.job.cancellation_requested == (now.cancellation_requested or target.cancellation_requested)
            self._record(result.job)


@pytest.mark.parametrize("seed", range(12))
async def test_rows_counts_and_logs_agree_with_the_model_after_a_random_history(
    runs: PolicyRunRepository, tenant: str, seed: int
) -> None:
    """Each answer also agrees with the model; some calls use a lease that is lost."""
    model = _Model(runs, tenant, seed)
    for _ in range(_STEPS):
        await model.check_random_call()

    page = await runs.list(tenant, PolicyRunQuery(limit=1_000))
    assert model.now == {run.run_id: run for run in page.runs}
    for status in PolicyRunStatus:
        expected = len([run for run in model.now.values() if run.status is status])
        assert expected == (await runs.count(tenant, PolicyRunQuery(statuses=(status,)))).value
    for run in page.runs:
        assert model.events[run.run_id] == [event.status for event in await runs.events(tenant, run.id)]
