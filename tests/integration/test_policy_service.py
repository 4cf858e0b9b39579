"""The use cases of policy runs: asked for once, canceled once, ended once, retried as a new run."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from graphjobs import (
    IdempotencyConflict,
    InvalidJob,
    JobConflict,
    JobNotFound,
    PolicyRunCompletion,
    PolicyRunInputs,
    PolicyRunJob,
    PolicyRunMode,
    PolicyRunService,
    PolicyRunStatus,
)
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, run_request

Status = PolicyRunStatus

_MINUTE = timedelta(minutes=1)


@pytest.fixture
def service(storage: Storage) -> PolicyRunService:
    """The use cases on the shared database."""
    return PolicyRunService(storage.policy_runs)


async def leased(storage: Storage, tenant: str, **fields: Any) -> PolicyRunJob:
    """Return a dispatching run."""
    await storage.policy_runs.insert(policy_run(tenant, **fields))
    (run,) = (await storage.policy_run_queue.lease("owner", _MINUTE, attempts_max=5, tenant_id=tenant)).runs
    return run


async def submitted(storage: Storage, tenant: str, **fields: Any) -> PolicyRunJob:
    """Return a submitted run."""
    run = await leased(storage, tenant, **fields)
    await storage.policy_run_queue.end([LeaseResult.submitted(run)])
    found = await storage.policy_runs.get(tenant, run.id)
    assert found is not None
    return found


async def test_a_request_is_one_run_however_often_it_is_asked_for(service: PolicyRunService, tenant: str) -> None:
    """By twenty at once, and later, when it has moved on; its log has one beginning."""
    request = run_request(tenant, run_id="nightly", metadata={"a": "b"}, inputs=PolicyRunInputs(sbom_set=("a",)))
    runs = await asyncio.gather(*(service.enqueue(request, actor="ci") for _ in range(20)))
    await service.request_cancellation(tenant, "nightly")
    late = await service.enqueue(request)
    assert 1 == len({run.id for run in runs})
    assert (runs[0].id, Status.CANCELED) == (late.id, late.status)
    assert 1 == (await service.count(tenant)).value


async def test_without_a_name_each_request_is_a_new_run(service: PolicyRunService, tenant: str) -> None:
    """Named after its id."""
    first, second = [await service.enqueue(run_request(tenant)) for _ in range(2)]
    assert [f"run:{run.id}" for run in (first, second)] == [first.run_id, second.run_id]
    assert first.id != second.id
    assert first.queued_at == first.created_at


@pytest.mark.parametrize(
    "other",
    [
        {"policy_id": "P-8"},
        {"policy_version": 2},
        {"mode": "simulate"},
        {"priority": "high"},
        {"metadata": {"a": "c"}},
        {"inputs": PolicyRunInputs(environment={"a": 1})},
        {"correlation_id": "c"},
        {"queued_at": AT + _MINUTE},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_name_that_was_used_for_another_request_is_refused(
    service: PolicyRunService, tenant: str, other: dict[str, Any]
) -> None:
    """Whatever differs; and nothing is done."""
    first = await service.enqueue(run_request(tenant, run_id="nightly", queued_at=AT))
    with pytest.raises(IdempotencyConflict, match="'nightly' was used for another request"):
        await service.enqueue(run_request(tenant, **{"run_id": "nightly", "queued_at": AT, **other}))
    assert first == await service.get(tenant, "nightly")
    assert first == await service.enqueue(run_request(tenant, run_id="nightly"))


async def test_requests_of_one_run_id_are_compared_without_their_actor(service: PolicyRunService, tenant: str) -> None:
    """A request that is made again by another hand is the same run, and remembers the first."""
    first = await service.enqueue(run_request(tenant, run_id="nightly", requested_by="ci"))
    again = await service.enqueue(run_request(tenant, run_id="nightly", requested_by="ops"))
    assert (first, "ci") == (again, again.requested_by)


async def test_a_retry_of_a_run_with_full_metadata_is_refused_with_the_reason(
    service: PolicyRunService, tenant: str
) -> None:
    """None more can name it."""
    await service.enqueue(run_request(tenant, run_id="full", metadata={f"k{n}": "v" for n in range(64)}))
    await service.request_cancellation(tenant, "full")
    with pytest.raises(JobConflict, match="the run has 64 metadata entries, and a retry adds one"):
        await service.retry(tenant, "full")


async def test_a_pending_run_is_canceled_at_once(service: PolicyRunService, tenant: str) -> None:
    """And stays so, however often it is asked for; the first reason counts."""
    await service.enqueue(run_request(tenant, run_id="nightly"))
    first = await service.request_cancellation(tenant, "nightly", reason="not needed", actor="ci")
    again = await service.request_cancellation(tenant, "nightly", reason="really")
    assert (Status.CANCELED, "not needed") == (first.status, first.cancellation_reason)
    assert first == again


async def test_a_leased_run_is_canceled_when_its_holder_next_asks(
    service: PolicyRunService, storage: Storage, tenant: str
) -> None:
    """Asked for once; until then it is dispatching, and its holder's."""
    run = await leased(storage, tenant)
    first = await service.request_cancellation(tenant, run.run_id, reason="why\x07" + "x" * 5_000)
    again = await service.request_cancellation(tenant, run.run_id)
    assert first == again
    assert (Status.DISPATCHING, True, "owner") == (
        first.status,
        first.cancellation_requested,
        first.lease_owner,
    )
    (renewed,) = (await storage.policy_run_queue.renew([run], _MINUTE)).runs
    assert renewed.cancellation_requested
    assert first.cancellation_reason == renewed.cancellation_reason
    assert "why\N{REPLACEMENT CHARACTER}" == str(renewed.cancellation_reason)[:4]
    await storage.policy_run_queue.end([LeaseResult.canceled(run)])
    now = await service.get(tenant, run.run_id)
    assert now is not None
    assert (Status.CANCELED, first.cancellation_requested_at) == (now.status, now.cancellation_requested_at)


async def test_heartbeats_do_not_keep_a_cancellation_from_being_noted(
    service: PolicyRunService, storage: Storage, tenant: str
) -> None:
    """It is compared with the version that was read, and read again."""
    run = await leased(storage, tenant)
    stop = asyncio.Event()

    async def beat() -> None:
        while not stop.is_set():
            await storage.policy_run_queue.renew([run], _MINUTE)
            await asyncio.sleep(0.02)

    beating = asyncio.ensure_future(beat())
    asked = await service.request_cancellation(tenant, run.run_id)
    stop.set()
    await beating
    assert asked.cancellation_requested


async def test_a_completion_ends_a_submitted_run(service: PolicyRunService, storage: Storage, tenant: str) -> None:
    """Once: each later completion is answered with the final run."""
    ends = {"completed": None, "failed": "no such policy", "canceled": None}
    for status, error in ends.items():
        run = await submitted(storage, tenant)
        completion = PolicyRunCompletion(run_id=run.run_id, status=status, error=error)  # type: ignore[arg-type]
        done = await service.complete(tenant, completion, actor="engine")
        late = await service.complete(tenant, PolicyRunCompletion(run_id=run.run_id, status="completed"))
        assert (status, error) == (done.status, done.last_error)
        assert done == late
        (*_, event) = await storage.policy_runs.events(tenant, run.id)
        assert ("submitted", status, "engine") == tuple(event.payload[name] for name in ("from", "to", "actor"))


async def test_what_was_not_handed_over_cannot_end(service: PolicyRunService, storage: Storage, tenant: str) -> None:
    """The run is pending, also after a release."""
    run = await leased(storage, tenant)
    await storage.policy_run_queue.end([LeaseResult.released(run)])
    with pytest.raises(JobConflict, match="the run is pending: complete it after it is submitted") as caught:
        await service.complete(tenant, PolicyRunCompletion(run_id=run.run_id, status="completed"))
    assert ("pending", run.id) == (caught.value.status, caught.value.job_id)


@pytest.mark.parametrize("status", ["completed", "failed", "canceled"])
async def test_an_engine_may_be_faster_than_the_note_of_the_hand_over(
    service: PolicyRunService, storage: Storage, tenant: str, status: Any
) -> None:
    """Its word says that it has the run: nothing is lost, and the dispatcher's own note comes to nothing."""
    run = await leased(storage, tenant)
    said = PolicyRunCompletion(run_id=run.run_id, status=status, error="so" if status == "failed" else None)
    done = await service.complete(tenant, said, actor="engine")
    assert (status, None) == (done.status, done.lease_owner)
    assert done.submitted_at is not None
    moves = [event.payload["to"] for event in await storage.policy_runs.events(tenant, run.id)]
    assert ["pending", "dispatching", "submitted", status] == moves
    late = await storage.policy_run_queue.end([LeaseResult.submitted(run)])
    assert {run.id} == set(late.lost)
    assert done == await storage.policy_runs.get(tenant, run.id)


async def test_a_cancellation_of_a_submitted_run_is_a_request(
    service: PolicyRunService, storage: Storage, tenant: str
) -> None:
    """The engine reads the request in the run; a final run is not canceled."""
    run = await submitted(storage, tenant)
    asked = await service.request_cancellation(tenant, run.run_id)
    assert (Status.SUBMITTED, True) == (asked.status, asked.cancellation_requested)
    done = await service.complete(tenant, PolicyRunCompletion(run_id=run.run_id, status="completed"))
    assert (Status.COMPLETED, True) == (done.status, done.cancellation_requested)
    with pytest.raises(JobConflict, match="the run is already completed"):
        await service.request_cancellation(tenant, run.run_id)


async def test_a_retry_is_a_new_run_that_names_the_old(
    service: PolicyRunService, storage: Storage, tenant: str
) -> None:
    """For the same, from the start; under a name of its own there is one."""
    run = await submitted(
        storage, tenant, run_id="nightly", priority="high", metadata={"a": "b"}, correlation_id="c", policy_version=3
    )
    with pytest.raises(JobConflict, match="the run is submitted: only a final run can be retried"):
        await service.retry(tenant, "nightly")
    await service.complete(tenant, PolicyRunCompletion(run_id="nightly", status="failed", error="so"))
    first = await service.retry(tenant, "nightly")
    named, again = [await service.retry(tenant, "nightly", new_run_id="nightly-2") for _ in range(2)]
    assert {**run.spec(), "metadata": {"a": "b", "retryOf": "nightly"}} == first.spec()
    assert (Status.PENDING, 0, None) == (first.status, first.attempts, first.last_error)
    assert first.run_id not in ("nightly", "nightly-2")
    assert named == again
    assert 3 == (await service.count(tenant)).value
    second = await service.request_cancellation(tenant, "nightly-2")
    assert "nightly-2" == (await service.retry(tenant, second.run_id)).metadata["retryOf"]


async def test_a_simulation_counts_for_nothing_whatever_was_asked_for(service: PolicyRunService, tenant: str) -> None:
    """Its mode says so."""
    run = await service.simulate(run_request(tenant, mode="full", priority="high"))
    assert (PolicyRunMode.SIMULATE, "high") == (run.mode, run.priority)
    assert [run] == list((await service.list(tenant, PolicyRunQuery(mode=PolicyRunMode.SIMULATE))).runs)
    metrics = await service.metrics(tenant)
    assert 1 == metrics.queue[run.mode, run.priority].count.value


async def test_another_tenants_run_is_as_one_that_is_not(
    service: PolicyRunService, storage: Storage, tenant: str
) -> None:
    """Whichever use case asks; and nothing changes."""
    run = await submitted(storage, tenant, run_id="nightly")
    other = f"{tenant}-other"
    assert None is await service.get(other, "nightly")
    for call in (
        service.request_cancellation(other, "nightly"),
        service.retry(other, "nightly"),
        service.complete(other, PolicyRunCompletion(run_id="nightly", status="completed")),
    ):
        with pytest.raises(JobNotFound, match=f"tenant '{other}' has no policy run nightly"):
            await call
    assert run == await service.get(tenant, "nightly")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda service: service.enqueue({"policyId": "P-7"}), "request"),
        (lambda service: service.simulate(None), "request"),
        (lambda service: service.complete("acme", {}), "completion"),
        (lambda service: service.request_cancellation("acme", ""), "run_id"),
        (lambda service: service.request_cancellation("acme", "x", reason="x" * 1_048_577), "reason"),
        (lambda service: service.request_cancellation("acme", "x", reason=7), "reason"),
        (lambda service: service.get("acme", "x" * 257), "run_id"),
        (lambda service: service.retry("", "x"), "tenant_id"),
    ],
)
async def test_bad_input_is_named(service: PolicyRunService, call: Any, field: str) -> None:
    """Before anything is done."""
    with pytest.raises(InvalidJob) as caught:
        await call(service)
    assert field == caught.value.field


@pytest.mark.parametrize(
    "given",
    [
        {"status": "failed"},
        {"status": "completed", "error": "so"},
        {"status": "canceled", "error": "so"},
        {"status": "running"},
    ],
)
def test_an_invalid_completion_is_refused(given: dict[str, Any]) -> None:
    """A failed run needs an error, and no other takes one."""
    with pytest.raises(InvalidJob):
        PolicyRunCompletion(run_id="nightly", **given)
