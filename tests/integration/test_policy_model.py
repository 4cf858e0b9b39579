"""Random histories of a few policy runs against a model in memory: what each verb answers, and what the row then is."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs import IllegalTransition, InvalidJob, PolicyRunInputs, PolicyRunJob, PolicyRunRequest, PolicyRunStatus
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of
from tests.strategies import json_values

Status = PolicyRunStatus

_MINUTE = timedelta(minutes=1)
_STEPS = 150
_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
_LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n"), min_size=1, max_size=300)
_JSON = json_values(_TEXT, text_size_max=50, items_max=3)
_TIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001


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
    queued_at=st.none() | _TIMES,
    requested_by=st.none() | _TEXT,
    correlation_id=st.none() | _TEXT,
    metadata=st.dictionaries(_TEXT, _LINES, max_size=3),
    inputs=st.builds(
        _with_names(PolicyRunInputs),
        sbom_set=st.lists(_TEXT, min_size=1, max_size=3),
        advisory_cursor=st.none() | _TIMES,
        vex_cursor=st.none() | _TIMES,
        environment=st.dictionaries(_TEXT, _JSON, max_size=3),
        capture_explain=st.booleans(),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(_REQUESTS, min_size=1, max_size=4))
def test_any_request_is_stored_unchanged(graphjobs_loop_runner: Any, requests: list[PolicyRunRequest]) -> None:
    """Text of any script, numbers up to their bounds, and any datetime are stored."""
    graphjobs_loop_runner(requests)


@pytest.fixture(scope="module")
def graphjobs_loop_runner(shared_settings: Any) -> Any:
    """Return a function that stores requests and reads them again, in its own event loop."""
    from graphjobs import open_storage

    loop = asyncio.new_event_loop()
    opened = open_storage(shared_settings)
    storage = loop.run_until_complete(opened.__aenter__())

    async def stored(requests: list[PolicyRunRequest]) -> None:
        for request in requests:
            run = request.to_run()
            inserted = await storage.policy_runs.insert(run)
            if inserted.id != run.id:  # drawn before
                continue
            assert run.stored(updated_at=inserted.updated_at, available_at=inserted.available_at) == inserted
            assert inserted == await storage.policy_runs.get_by_run_id(run.tenant_id, run.run_id)
            query = PolicyRunQuery(policy_id=run.policy_id, mode=run.mode, limit=1_000)
            assert inserted in (await storage.policy_runs.list(run.tenant_id, query)).runs

    yield lambda requests: loop.run_until_complete(stored(requests))
    loop.run_until_complete(opened.__aexit__(None, None, None))
    loop.close()


class _Model:
    """The runs as they should be and their owners."""

    def __init__(self, storage: Storage, tenant: str, seed: int) -> None:
        self.runs = storage.policy_runs
        self.tenant = tenant
        self.choose = random.Random(seed)  # noqa: S311  # no secret
        self.now: dict[str, PolicyRunJob] = {}
        self.events: dict[str, list[str]] = {}
        self.stale: list[PolicyRunJob] = []

    async def step(self) -> None:
        """Does something, and compares what it answers."""
        verbs = (self.insert, self.lease, self.lease, self.renew, self.end, self.end, self.replace, self.replace)
        await self.choose.choice(verbs)()

    def _moved(self, run: PolicyRunJob) -> None:
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
            self._moved(inserted)

    async def lease(self) -> None:
        """Of those that are pending the right ones."""
        owner = self.choose.choice(["a", "b"])
        taken = await queue_of(self.runs).lease(owner, _MINUTE, attempts_max=99_999, limit=1, tenant_id=self.tenant)
        pending = [run for run in self.now.values() if run.status is Status.PENDING]
        assert bool(pending) == bool(taken.runs)
        for run in taken.runs:
            before = self.now[run.run_id]
            assert before in pending
            assert run.last_attempt_at is not None
            assert run.lease_expires_at is not None
            moved = before.lease(at=run.last_attempt_at, owner=owner, until=run.lease_expires_at)
            assert moved.stored(updated_at=run.updated_at) == run
            self._moved(run)
            self.stale.append(run)

    def _held(self) -> list[PolicyRunJob]:
        """Leases as they were taken, some of them long lost; each run once."""
        chosen = self.choose.sample(self.stale, min(3, len(self.stale)))
        return list({run.id: run for run in chosen}.values())

    def _is_held(self, run: PolicyRunJob) -> bool:
        now = self.now[run.run_id]
        return (now.status, now.attempts, now.lease_owner) == (
            Status.DISPATCHING,
            run.attempts,
            run.lease_owner,
        )

    async def renew(self) -> None:
        """Those that still are held, and only they."""
        held = self._held()
        renewed = await queue_of(self.runs).renew(held, _MINUTE)
        assert [run.id for run in held if self._is_held(run)] == [run.id for run in renewed.runs]
        assert {run.id for run in held if not self._is_held(run)} == renewed.lost
        for run in renewed.runs:
            assert self.now[run.run_id].updated_at < run.updated_at
            self.now[run.run_id] = run

    async def end(self) -> None:
        """Each as it ends, where its lease is still its owner's."""
        made = (
            LeaseResult.submitted,
            LeaseResult.released,
            LeaseResult.canceled,
            lambda run: LeaseResult.failed(run, "so"),
        )
        endings = [self.choose.choice(made)(run) for run in self._held()]
        ended = await queue_of(self.runs).end(endings)
        held = {ending.job.id for ending in endings if self._is_held(ending.job)}
        assert (held, frozenset()) == (set(ended.versions), ended.busy)
        assert {ending.job.id for ending in endings} - held == set(ended.lost)
        for ending in endings:
            if ending.job.id in held:
                asked = self.now[ending.job.run_id].cancellation_requested
                canceled = asked and ending.status is not Status.SUBMITTED
                run = await self.runs.get(self.tenant, ending.job.id)
                assert run is not None
                assert (Status.CANCELED if canceled else ending.status) is run.status
                assert ended.versions[run.id] == run.updated_at
                self._moved(run)

    async def replace(self) -> None:
        """A move by hand, of the run as it is or as it once was."""
        known = [*self.now.values(), *self.choose.sample(self.stale, min(2, len(self.stale)))]
        if not known:
            return
        seen = self.choose.choice(known)
        moves = (
            lambda run: run.request_cancellation(at=AT),
            lambda run: run.release(at=AT, available_at=AT),
            lambda run: run.complete(at=AT),
            lambda run: run.fail(at=AT, error="by hand"),
            lambda run: run.cancel(at=AT),
        )
        try:
            moved = self.choose.choice(moves)(seen)
        except (InvalidJob, IllegalTransition):
            return
        if moved is seen:
            return
        now = self.now[seen.run_id]
        fits = (now.status, now.attempts, now.lease_owner) == (seen.status, seen.attempts, seen.lease_owner)
        if moved.status is seen.status:
            fits = fits and now.updated_at == seen.updated_at
        if moved.status is Status.PENDING:
            fits = fits and not now.cancellation_requested
        result = await self.runs.replace(moved, seen.lease_owner)
        assert fits == result.applied, (now, seen, moved, result)
        assert result.job is not None
        assert result.job == await self.runs.get(self.tenant, seen.id)
        if result.applied:
            assert result.job.cancellation_requested == (now.cancellation_requested or moved.cancellation_requested)
            self._moved(result.job)

    async def require_agreement(self) -> None:
        """Rows, pages, counts and logs are those of the model."""
        page = await self.runs.list(self.tenant, PolicyRunQuery(limit=1_000))
        assert {run.run_id: run for run in page.runs} == self.now
        for status in PolicyRunStatus:
            expected = len([run for run in self.now.values() if run.status is status])
            assert expected == (await self.runs.count(self.tenant, PolicyRunQuery(statuses=(status,)))).value
        for run in self.now.values():
            assert self.events[run.run_id] == [event.status for event in await self.runs.events(self.tenant, run.id)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
async def test_a_random_history_agrees_with_the_model(
    storage: Storage, tenant: str, seed: int, in_session: bool
) -> None:
    """Each step is compared with the model. Some steps use a lease that is lost."""
    model = _Model(storage, tenant, seed)
    if not in_session:
        for _ in range(_STEPS):
            await model.step()
        await model.require_agreement()
        return
    async with storage.session() as session, session.begin():
        model.runs = storage.policy_runs.using(session)
        for _ in range(_STEPS):
            await model.step()
        await model.require_agreement()
