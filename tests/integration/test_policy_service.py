"""The use cases of policy runs: enqueue, cancel, complete and retry."""

from typing import Any

import pytest

from graphjobs import (
    IdempotencyConflict,
    InvalidJob,
    JobConflict,
    PolicyRunCompletion,
    PolicyRunInputs,
    PolicyRunMode,
    PolicyRunRepository,
    PolicyRunService,
    PolicyRunStatus,
)
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request
from tests.integration.states import MINUTE, add_leased, add_submitted, read

Status = PolicyRunStatus


@pytest.fixture
def runs(storage: Storage) -> PolicyRunRepository:
    """The repository in autocommit."""
    return storage.policy_runs


@pytest.fixture
def service(runs: PolicyRunRepository) -> PolicyRunService:
    """The use cases on the shared database."""
    return PolicyRunService(runs)


def completion(run_id: str, status: Any = "completed", error: str | None = None) -> PolicyRunCompletion:
    """Return what the policy engine reports of a run."""
    return PolicyRunCompletion(run_id=run_id, status=status, error=error)


async def test_a_repeated_request_returns_the_same_run(service: PolicyRunService, tenant: str) -> None:
    """Another actor and a later transition of the run change nothing."""
    fields: dict[str, Any] = {"run_id": "nightly", "metadata": {"a": "b"}, "inputs": PolicyRunInputs(sbom_set=("a",))}
    first = await service.enqueue(run_request(tenant, requested_by="ci", **fields), actor="ci")
    again = await service.enqueue(run_request(tenant, requested_by="ops", **fields))
    canceled = await service.request_cancellation(tenant, "nightly")
    late = await service.enqueue(run_request(tenant, requested_by="ci", **fields))
    assert (first, "ci") == (again, again.requested_by)
    assert (first.id, canceled, Status.CANCELED) == (late.id, late, late.status)
    assert 1 == (await service.count(tenant)).value


async def test_each_request_without_a_run_id_is_a_new_run(service: PolicyRunService, tenant: str) -> None:
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
        {"queued_at": AT + MINUTE},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_the_run_id_of_another_request_is_refused(
    service: PolicyRunService, tenant: str, other: dict[str, Any]
) -> None:
    first = await service.enqueue(run_request(tenant, run_id="nightly", queued_at=AT))
    with pytest.raises(IdempotencyConflict, match="'nightly' was used for another request"):
        await service.enqueue(run_request(tenant, **{"run_id": "nightly", "queued_at": AT, **other}))
    assert first == await service.get(tenant, "nightly")
    assert first == await service.enqueue(run_request(tenant, run_id="nightly"))


async def test_a_retry_of_a_run_with_full_metadata_is_refused_with_the_reason(
    service: PolicyRunService, tenant: str
) -> None:
    await service.enqueue(run_request(tenant, run_id="full", metadata={f"k{n}": "v" for n in range(64)}))
    await service.request_cancellation(tenant, "full")
    with pytest.raises(JobConflict, match="the run has 64 metadata entries, and a retry adds one"):
        await service.retry(tenant, "full")


async def test_a_pending_run_is_canceled_at_once(service: PolicyRunService, tenant: str) -> None:
    await service.enqueue(run_request(tenant, run_id="nightly"))
    first = await service.request_cancellation(tenant, "nightly", reason="not needed", actor="ci")
    again = await service.request_cancellation(tenant, "nightly", reason="really")
    assert (Status.CANCELED, "not needed") == (first.status, first.cancellation_reason)
    assert first == again


async def test_a_leased_run_is_canceled_by_its_holder(
    service: PolicyRunService, runs: PolicyRunRepository, tenant: str
) -> None:
    """The holder reads the request with its next heartbeat; a repeated request changes nothing."""
    run = await add_leased(runs, policy_run(tenant))
    first = await service.request_cancellation(tenant, run.run_id, reason="why\x07" + "x" * 5_000)
    again = await service.request_cancellation(tenant, run.run_id)
    (renewed,) = (await queue_of(runs).renew([run], MINUTE)).runs
    await queue_of(runs).end([LeaseResult.canceled(run)])
    canceled = await read(runs, run)
    assert first == again
    assert (Status.DISPATCHING, True, "owner") == (first.status, first.cancellation_requested, first.lease_owner)
    assert (True, first.cancellation_reason) == (renewed.cancellation_requested, renewed.cancellation_reason)
    assert "why\N{REPLACEMENT CHARACTER}" == str(renewed.cancellation_reason)[:4]
    assert (Status.CANCELED, first.cancellation_requested_at) == (canceled.status, canceled.cancellation_requested_at)


@pytest.mark.parametrize("is_submitted", [True, False], ids=["submitted", "leased"])
@pytest.mark.parametrize(("status", "error"), [("completed", None), ("failed", "no such policy"), ("canceled", None)])
async def test_a_completion_ends_a_submitted_or_leased_run(
    service: PolicyRunService,
    runs: PolicyRunRepository,
    tenant: str,
    status: str,
    error: str | None,
    is_submitted: bool,
) -> None:
    """A completion proves that the engine has the run; later completions and lease results change nothing."""
    run = await add_leased(runs, policy_run(tenant))
    if is_submitted:
        await queue_of(runs).end([LeaseResult.submitted(run)])
    done = await service.complete(tenant, completion(run.run_id, status, error), actor="engine")
    late = await service.complete(tenant, completion(run.run_id))
    late_result = await queue_of(runs).end([LeaseResult.submitted(run)])

    assert (status, error, None) == (done.status, done.last_error, done.lease_owner)
    assert done.submitted_at is not None
    assert done == late == await runs.get(tenant, run.id)
    assert {run.id} == set(late_result.lost)
    events = await runs.events(tenant, run.id)
    assert ["pending", "dispatching", "submitted", status] == [event.payload["to"] for event in events]
    assert ("submitted", "engine") == (events[-1].payload["from"], events[-1].payload["actor"])


async def test_a_completion_of_a_pending_run_is_a_conflict(
    service: PolicyRunService, runs: PolicyRunRepository, tenant: str
) -> None:
    """A released run is pending, too."""
    run = await add_leased(runs, policy_run(tenant))
    await queue_of(runs).end([LeaseResult.released(run)])
    with pytest.raises(JobConflict, match="the run is pending: complete it after it is submitted") as caught:
        await service.complete(tenant, completion(run.run_id))
    assert ("pending", run.id) == (caught.value.status, caught.value.job_id)


async def test_a_cancellation_of_a_submitted_run_is_a_request(
    service: PolicyRunService, runs: PolicyRunRepository, tenant: str
) -> None:
    """The engine reads the request in the run; a final run is not canceled."""
    run = await add_submitted(runs, policy_run(tenant))
    requested = await service.request_cancellation(tenant, run.run_id)
    done = await service.complete(tenant, completion(run.run_id))
    assert (Status.SUBMITTED, True) == (requested.status, requested.cancellation_requested)
    assert (Status.COMPLETED, True) == (done.status, done.cancellation_requested)
    with pytest.raises(JobConflict, match="the run is already completed"):
        await service.request_cancellation(tenant, run.run_id)


async def test_a_retry_is_a_new_run_with_the_run_id_of_the_old(
    service: PolicyRunService, runs: PolicyRunRepository, tenant: str
) -> None:
    fields: dict[str, Any] = {"metadata": {"a": "b"}, "correlation_id": "c", "policy_version": 3}
    run = await add_submitted(runs, policy_run(tenant, run_id="nightly", priority="high", **fields))
    with pytest.raises(JobConflict, match="the run is submitted: only a final run can be retried"):
        await service.retry(tenant, "nightly")
    await service.complete(tenant, completion("nightly", "failed", "broken"))
    first = await service.retry(tenant, "nightly")
    with_run_id, again = [await service.retry(tenant, "nightly", new_run_id="nightly-2") for _ in range(2)]
    assert {**run.spec(), "metadata": {"a": "b", "retryOf": "nightly"}} == first.spec()
    assert (Status.PENDING, 0, None) == (first.status, first.attempts, first.last_error)
    assert first.run_id not in ("nightly", "nightly-2")
    assert with_run_id == again
    assert 3 == (await service.count(tenant)).value
    second = await service.request_cancellation(tenant, "nightly-2")
    assert "nightly-2" == (await service.retry(tenant, second.run_id)).metadata["retryOf"]


async def test_a_simulation_has_the_mode_simulate(service: PolicyRunService, tenant: str) -> None:
    run = await service.simulate(run_request(tenant, mode="full", priority="high"))
    assert (PolicyRunMode.SIMULATE, "high") == (run.mode, run.priority)
    assert [run] == list((await service.list(tenant, PolicyRunQuery(mode=PolicyRunMode.SIMULATE))).runs)
    metrics = await service.metrics(tenant)
    assert 1 == metrics.queue[run.mode, run.priority].count.value


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda service: service.enqueue({"policyId": "P-7"}), "request"),
        (lambda service: service.get("acme", "x" * 257), "run_id"),
        (lambda service: service.retry("", "x"), "tenant_id"),
    ],
)
async def test_an_invalid_argument_is_named(service: PolicyRunService, call: Any, field: str) -> None:
    """The other arguments are in tests/faults/test_policy_hostile.py."""
    with pytest.raises(InvalidJob) as caught:
        await call(service)
    assert field == caught.value.field


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "failed"},
        {"status": "completed", "error": "broken"},
        {"status": "canceled", "error": "broken"},
        {"status": "running"},
    ],
)
def test_an_invalid_completion_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob):
        PolicyRunCompletion(run_id="nightly", **fields)
