"""Values of policy runs, their requests and events, with their invariants and pure transitions. No database here.

A value that exists is valid: `InvalidJob`, which names the field, is raised when an invalid value is made.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from immutabledict import immutabledict
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from uuid_utils.compat import uuid7

from graphjobs.core.event_log import Event
from graphjobs.core.fields import ErrorText, FrozenModel, Id, Json, Name, NameSet, UtcTime, utc_now
from graphjobs.core.invalid_values import invariant_error
from graphjobs.core.metadata import Metadata
from graphjobs.core.pagination import TIMESTAMP_MAX, TIMESTAMP_MIN
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.errors import InvalidJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus


def _in_range(time: datetime) -> datetime:
    if TIMESTAMP_MIN <= time <= TIMESTAMP_MAX:
        return time
    raise PydanticCustomError("time", "must be between 0001-01-02 and 9999-12-30")


StoredTime: TypeAlias = Annotated[UtcTime, AfterValidator(_in_range)]
"""A time in the range that columns accept, and that every client can represent."""


class PolicyRunInputs(FrozenModel):
    """The inputs of a run.

    Attributes:
        sbom_set: ids of SBOMs, sorted and unique; not empty for an incremental run.
        advisory_cursor: the end of the advisories that the run evaluates, or None.
        vex_cursor: the end of the VEX statements that the run evaluates, or None.
        environment: JSON for the policy: at most 64 KiB, 32 levels.
        capture_explain: whether the run records the reasons of its decisions.
    """

    sbom_set: NameSet = ()
    advisory_cursor: UtcTime | None = None
    vex_cursor: UtcTime | None = None
    environment: Json = Field(default_factory=immutabledict)
    capture_explain: bool = False


class _PayloadFields(FrozenModel):
    policy_version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    requested_by: Name | None = None
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)
    inputs: PolicyRunInputs = Field(default_factory=PolicyRunInputs)


class PolicyRunSpec(_PayloadFields):
    """The fields that a request and its run share.

    Attributes:
        policy_id: the policy.
        policy_version: its version; None means the version in force when the run is evaluated.
        mode: full, incremental (only over `inputs.sbom_set`), or simulate (without effects).
        priority: normal, high or emergency; a higher one is leased first.
        requested_by: who requests the run, for people.
        correlation_id: the caller's id of the process that this run is part of.
        metadata: the caller's own entries, as text.
        inputs: the inputs.
    """

    policy_id: Name
    mode: Annotated[PolicyRunMode, Field(strict=False)]
    priority: Annotated[PolicyRunPriority, Field(strict=False)] = PolicyRunPriority.NORMAL

    @model_validator(mode="after")
    def _check_mode_fields(self) -> Self:
        if self.mode is PolicyRunMode.INCREMENTAL and not self.inputs.sbom_set:
            raise invariant_error("an incremental run must have an inputs.sbomSet that is not empty")
        return self

    def spec(self) -> dict[str, Any]:
        """Return the fields of the request by their Python names."""
        return {name: getattr(self, name) for name in PolicyRunSpec.model_fields}


class PolicyRunPayload(_PayloadFields):
    """The payload of a stored run: the fields that no statement filters, orders or changes. It never changes."""

    schema_version: Literal["scheduler.policy-run-job@1"]


_PAYLOAD_FIELDS: Final = frozenset(PolicyRunPayload.model_fields)


class PolicyRunJob(PolicyRunSpec):
    """A policy run.

    A transition is pure: it returns a new value and stores nothing. It raises `IllegalTransition` where the transition
    table does not have it, and `InvalidJob` where the new value is invalid. One that keeps the status keeps
    `updated_at`, the version that it changes.

    Attributes:
        id: the key of the row.
        run_id: the caller's name of the run, unique within the tenant.
        attempts: how many times the run was leased.
        last_attempt_at: the time of the last lease.
        last_error: why the last attempt, or the run, failed.
        available_at: the earliest time of the next lease.
        submitted_at: when a policy engine took the run.
        completed_at: when the run completed or failed.
        lease_owner: who dispatches the run; only while it is dispatching.
        lease_expires_at: the end of the lease; after it, another dispatcher can take the run.
        cancellation_requested: whether cancellation was requested; it is never withdrawn.
        cancellation_requested_at: when it was requested.
        cancellation_reason: why.
        canceled_at: when the run was canceled.
        updated_at: the version of the row as it was read; on a value that was never stored, the time it was made.
    """

    schema_version: Literal["scheduler.policy-run-job@1"] = "scheduler.policy-run-job@1"
    id: Id = Field(default_factory=uuid7)
    tenant_id: Name
    run_id: Name
    status: Annotated[PolicyRunStatus, Field(strict=False)] = Status.PENDING
    queued_at: StoredTime = Field(default_factory=utc_now)
    attempts: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = 0
    last_attempt_at: StoredTime | None = None
    last_error: ErrorText | None = None
    available_at: StoredTime = Field(default_factory=utc_now)
    submitted_at: StoredTime | None = None
    completed_at: StoredTime | None = None
    lease_owner: Name | None = None
    lease_expires_at: StoredTime | None = None
    cancellation_requested: bool = False
    cancellation_requested_at: StoredTime | None = None
    cancellation_reason: ErrorText | None = None
    canceled_at: StoredTime | None = None
    created_at: StoredTime = Field(default_factory=utc_now)
    updated_at: StoredTime = Field(default_factory=utc_now)

    @property
    def error(self) -> str | None:
        """The error of the last attempt, as its event records it."""
        return self.last_error

    def payload_json(self) -> str:
        """Return the payload as it is stored: the fields without a column."""
        return self.__pydantic_serializer__.to_json(
            self, by_alias=True, exclude_none=True, include=set(_PAYLOAD_FIELDS)
        ).decode()

    def stored(self, *, updated_at: datetime, **columns: Any) -> Self:
        """Return this value as stored at a version, with the columns that the database set."""
        twin = self.__copy__()
        twin.__dict__.update(columns, updated_at=updated_at)
        return twin

    @model_validator(mode="after")
    def _check_invariants(self) -> Self:
        # Times are not compared with one another, because the clocks that made them differ.
        status = self.status
        leased = self.lease_owner is not None
        if leased != (self.lease_expires_at is not None):
            raise invariant_error("lease_owner and lease_expires_at must both be set, or neither")
        if leased != (status is Status.DISPATCHING):
            raise invariant_error(f"a {status} run must {'not ' if leased else ''}have a lease")
        if status is Status.DISPATCHING and (self.attempts < 1 or self.last_attempt_at is None):
            raise invariant_error("a dispatching run must have attempts of 1 or more, and last_attempt_at")
        if status in (Status.SUBMITTED, Status.COMPLETED) and self.submitted_at is None:
            raise invariant_error(f"a {status} run must have submitted_at")
        if (self.completed_at is not None) != (status in (Status.COMPLETED, Status.FAILED)):
            raise invariant_error("completed_at must be set if, and only if, the run is completed or failed")
        if (self.canceled_at is not None) != (status is Status.CANCELED):
            raise invariant_error("canceled_at must be set if, and only if, the run is canceled")
        if status is Status.FAILED and self.last_error is None:
            raise invariant_error("a failed run must have last_error")
        if self.cancellation_requested != (self.cancellation_requested_at is not None):
            raise invariant_error(
                "cancellation_requested must be true if, and only if, cancellation_requested_at is set"
            )
        if self.cancellation_requested and status is Status.PENDING:
            raise invariant_error("a pending run must not have a requested cancellation")
        return self

    def with_cancellation(self, at: datetime | None, reason: str | None) -> Self:
        """Return this value with the cancellation that the row has; `at` is None where it has none."""
        request = {"cancellation_requested": at is not None, "cancellation_requested_at": at}
        return self.stored(updated_at=self.updated_at, cancellation_reason=reason, **request)

    def lease(self, *, at: datetime, owner: str, until: datetime) -> Self:
        """Start the next attempt, leased by an owner until a time: pending to dispatching."""
        return self._transition(
            Status.DISPATCHING,
            from_status=Status.PENDING,
            at=at,
            attempts=self.attempts + 1,
            last_attempt_at=at,
            lease_owner=owner,
            lease_expires_at=until,
        )

    def renew(self, *, at: datetime, until: datetime) -> Self:
        """Extend the lease. Every transition takes `at`; this one keeps the status and so the version, too."""
        return self._transition(Status.DISPATCHING, from_status=Status.DISPATCHING, at=at, lease_expires_at=until)

    def release(self, *, at: datetime, available_at: datetime, error: str | None = None) -> Self:
        """Release the run: dispatching to pending. It is not leased before `available_at`.

        Args:
            at: the time of the transition.
            available_at: the earliest time of the next lease.
            error: why the attempt failed; None where it was released in order.

        Raises:
            InvalidJob: cancellation was requested.
        """
        if self.cancellation_requested:
            raise InvalidJob(
                "cancellation_requested must be false to release a run: cancel it", field="cancellation_requested"
            )
        return self._transition_clearing_lease(
            Status.PENDING,
            from_status=Status.DISPATCHING,
            at=at,
            available_at=available_at,
            last_error=None if error is None else sanitize_error(error),
        )

    def submit(self, *, at: datetime) -> Self:
        """Submit the run to a policy engine, which took it: dispatching to submitted."""
        return self._transition_clearing_lease(
            Status.SUBMITTED, from_status=Status.DISPATCHING, at=at, submitted_at=at, last_error=None
        )

    def complete(self, *, at: datetime) -> Self:
        """Complete the run: submitted to completed."""
        return self._transition(Status.COMPLETED, from_status=Status.SUBMITTED, at=at, completed_at=at)

    def fail(self, *, at: datetime, error: str) -> Self:
        """Fail the run: dispatching or submitted to failed. The text is sanitized and cut, never refused."""
        return self._transition_clearing_lease(Status.FAILED, at=at, completed_at=at, last_error=sanitize_error(error))

    def request_cancellation(self, *, at: datetime, reason: str | None = None) -> Self:
        """Request the cancellation of the run: a pending run is canceled, another run keeps its status.

        A repeated request, or a request on a final run, changes nothing.
        """
        if self.cancellation_requested or self.status.is_final:
            return self
        request: dict[str, Any] = {
            "cancellation_requested": True,
            "cancellation_requested_at": at,
            "cancellation_reason": None if reason is None else sanitize_error(reason),
        }
        if self.status is Status.PENDING:
            return self._transition(Status.CANCELED, at=at, canceled_at=at, **request)
        return self.replace(**request)

    def cancel(self, *, at: datetime) -> Self:
        """Cancel the run: pending, dispatching or submitted to canceled."""
        return self._transition_clearing_lease(Status.CANCELED, at=at, canceled_at=at)

    def _transition_clearing_lease(self, target: PolicyRunStatus, *, at: datetime, **fields: Any) -> Self:
        return self._transition(target, at=at, lease_owner=None, lease_expires_at=None, **fields)

    def _transition(
        self, target: PolicyRunStatus, *, at: datetime, from_status: PolicyRunStatus | None = None, **fields: Any
    ) -> Self:
        self.status.require_transition(target, from_status=from_status)
        version = self.updated_at if target is self.status else at
        return self.replace(status=target, updated_at=version, **fields)


class PolicyRunEvent(Event):
    """One entry of a run's log; see `Event`. `job_id` is the run's `id`."""

    status: Annotated[PolicyRunStatus, Field(strict=False)]
