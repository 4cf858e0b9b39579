"""Policy runs: their invariants, transitions and rejected values."""

import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graphjobs import IllegalTransition, InvalidJob
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.requests import PolicyRunRequest
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from tests.builders import AT

Status = PolicyRunStatus

_UNTIL = AT + timedelta(minutes=1)


def request(**fields: Any) -> PolicyRunRequest:
    """Build a request of a full run."""
    return PolicyRunRequest(**{"tenant_id": "acme", "policy_id": "P-7", "mode": "full", **fields})


def pending(**fields: Any) -> PolicyRunJob:
    """Build a pending run."""
    return request().to_run(available_at=AT, created_at=AT, updated_at=AT, **fields)


def at_each_status() -> dict[PolicyRunStatus, PolicyRunJob]:
    """Build a run for each status."""
    leased = pending().lease(at=AT, owner="worker 1", until=_UNTIL)
    submitted = leased.submit(at=AT)
    return {
        Status.PENDING: pending(),
        Status.DISPATCHING: leased,
        Status.SUBMITTED: submitted,
        Status.COMPLETED: submitted.complete(at=AT),
        Status.FAILED: leased.fail(at=AT, error="no such policy"),
        Status.CANCELED: pending().cancel(at=AT),
    }


def test_each_status_has_its_code_and_public_status() -> None:
    """Modes and priorities have codes, too."""
    assert ["queued", "running", "running", "succeeded", "failed", "canceled"] == [
        status.public_status for status in PolicyRunStatus
    ]
    assert [0, 1, 2, 3, 4, 5] == [status.code for status in PolicyRunStatus]
    assert {"full": 0, "incremental": 1, "simulate": 2} == {mode.value: mode.code for mode in PolicyRunMode}
    assert {"normal": 0, "high": 1, "emergency": 2} == {one.value: one.code for one in PolicyRunPriority}
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELED} == {
        status for status in PolicyRunStatus if status.is_final
    }


@pytest.mark.parametrize(
    ("transition", "legal_from"),
    [
        (lambda run: run.lease(at=AT, owner="worker", until=_UNTIL), {Status.PENDING}),
        (lambda run: run.renew(at=AT, until=_UNTIL), {Status.DISPATCHING}),
        (lambda run: run.release(at=AT, available_at=_UNTIL), {Status.DISPATCHING}),
        (lambda run: run.submit(at=AT), {Status.DISPATCHING}),
        (lambda run: run.complete(at=AT), {Status.SUBMITTED}),
        (lambda run: run.fail(at=AT, error="so"), {Status.DISPATCHING, Status.SUBMITTED}),
        (
            lambda run: run.cancel(at=AT),
            {Status.PENDING, Status.DISPATCHING, Status.SUBMITTED},
        ),
    ],
)
def test_each_transition_starts_from_its_legal_statuses(
    transition: Callable[[PolicyRunJob], PolicyRunJob], legal_from: set[PolicyRunStatus]
) -> None:
    """The result satisfies every invariant."""
    for status, run in at_each_status().items():
        if status in legal_from:
            result = transition(run)
            assert PolicyRunJob.from_json(result.to_json()) == result
        else:
            with pytest.raises(IllegalTransition):
                transition(run)


def test_a_lease_has_an_owner_until_its_release() -> None:
    """Only a lease adds an attempt; a released run is pending and has an error."""
    leased = pending().lease(at=AT, owner="worker 1", until=_UNTIL)
    assert (1, "worker 1", _UNTIL, AT) == (
        leased.attempts,
        leased.lease_owner,
        leased.lease_expires_at,
        leased.last_attempt_at,
    )
    back = leased.release(at=AT, available_at=_UNTIL, error="the engine is away")
    assert (Status.PENDING, 1, None, _UNTIL, "the engine is away") == (
        back.status,
        back.attempts,
        back.lease_owner,
        back.available_at,
        back.last_error,
    )
    assert 2 == back.lease(at=AT, owner="worker 2", until=_UNTIL).attempts


def test_cancellation_is_requested_once() -> None:
    """A pending run is canceled; a leased run has the request, and continues until its holder reads it."""
    runs = at_each_status()
    canceled = runs[Status.PENDING].request_cancellation(at=AT, reason="not needed")
    assert (Status.CANCELED, True, "not needed") == (
        canceled.status,
        canceled.cancellation_requested,
        canceled.cancellation_reason,
    )
    asked = runs[Status.DISPATCHING].request_cancellation(at=AT)
    assert (Status.DISPATCHING, True, AT) == (
        asked.status,
        asked.cancellation_requested,
        asked.cancellation_requested_at,
    )
    assert asked is asked.request_cancellation(at=_UNTIL, reason="again")
    assert runs[Status.COMPLETED] is runs[Status.COMPLETED].request_cancellation(at=AT)


def test_a_run_has_the_fields_of_its_request() -> None:
    inputs = PolicyRunInputs(sbom_set=("b", "a", "b"), environment={"sealed": True})
    asked = request(mode="incremental", priority="emergency", inputs=inputs, run_id="nightly-7", metadata={"by": "ci"})
    run = asked.to_run()
    assert ("nightly-7", Status.PENDING, PolicyRunPriority.EMERGENCY) == (run.run_id, run.status, run.priority)
    assert ("a", "b") == run.inputs.sbom_set
    assert asked.inputs == run.inputs
    assert f"run:{(made := request().to_run()).id}" == made.run_id
    assert run == pickle.loads(pickle.dumps(run))  # noqa: S301  # our own


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: request(mode="incremental"), ""),
        (lambda: request(mode="partial"), "mode"),
        (lambda: request(mode=0), "mode"),
        (lambda: request(priority="urgent"), "priority"),
        (lambda: request(tenant_id=""), "tenant_id"),
        (lambda: request(policy_id="a\0b"), "policy_id"),
        (lambda: request(policy_version=-1), "policy_version"),
        (lambda: request(policy_version=True), "policy_version"),
        (lambda: request(policy_version=2**31), "policy_version"),
        (lambda: request(run_id="x" * 257), "run_id"),
        (lambda: request(unknown=1), "unknown"),
        (lambda: request(queued_at=datetime(1, 1, 1, tzinfo=UTC)), "queued_at"),
        (lambda: pending().cancel(at=datetime(9999, 12, 31, tzinfo=UTC)), "canceled_at"),
        (lambda: PolicyRunInputs(environment={"a": float("nan")}), "environment"),
        (lambda: PolicyRunInputs(environment=_deep(5_000)), "environment"),
        (lambda: PolicyRunInputs(environment={"a": "x" * 70_000}), "environment"),
        (lambda: PolicyRunInputs(sbom_set="abc"), "sbom_set"),  # type: ignore[arg-type]
        (lambda: PolicyRunInputs(capture_explain=1), "capture_explain"),  # type: ignore[arg-type]
        (lambda: pending().lease(at=AT, owner="x" * 10_000, until=_UNTIL), "lease_owner"),
        (lambda: pending().lease(at=AT.replace(tzinfo=None), owner="w", until=_UNTIL), "last_attempt_at"),
        (lambda: pending(lease_owner="worker"), ""),
        (lambda: pending(status="failed"), ""),
        (lambda: pending(status="dispatching"), ""),
        (lambda: pending(cancellation_requested=True), ""),
    ],
)
def test_an_invalid_value_is_rejected_with_its_field(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        make()
    assert field == caught.value.field.split(".")[0]
