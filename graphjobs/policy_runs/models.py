"""What a policy run, its request and its event are: frozen values, their invariants, and pure moves; no database here.

A value that exists is valid: what is wrong raises `InvalidJob`, which names the field, when the value is made.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from immutabledict import immutabledict
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from uuid_utils.compat import uuid7

from graphjobs.core.event_log import Event
from graphjobs.core.fields import (
    ErrorText,
    FrozenModel,
    Id,
    Json,
    Metadata,
    Name,
    NameSet,
    UtcTime,
    invariant_error,
    sanitize_error,
)
from graphjobs.core.pagination import TIMESTAMP_MAX, TIMESTAMP_MIN
from graphjobs.core.results import ATTEMPTS_MAX
from graphjobs.errors import InvalidJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus


def _now() -> datetime:
    return datetime.now(UTC)


def _in_range(time: datetime) -> datetime:
    if TIMESTAMP_MIN <= time <= TIMESTAMP_MAX:
        return time
    raise PydanticCustomError("time", "A time should lie between 0001-01-02 and 9999-12-30, for the table to hold it")


StoredTime: TypeAlias = Annotated[UtcTime, AfterValidator(_in_range)]
"""A time that a column holds: no other is one that each program can read."""


class PolicyRunInputs(FrozenModel):
    """What a run evaluates.

    Attributes:
        sbom_set: ids of SBOMs, sorted and unique; an incremental run needs some.
        advisory_cursor: where the advisories it sees end, or None.
        vex_cursor: where the VEX statements it sees end, or None.
        environment: whatever the policy is to know, as JSON: at most 64 KiB, 32 levels.
        capture_explain: whether it keeps why it decided as it did.
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
    """What is to be evaluated, and how: what a request and the run that follows from it have in common.

    Attributes:
        policy_id: which policy.
        policy_version: which version of it; None means the one in force when it runs.
        mode: full, incremental (only over `inputs.sbom_set`), or simulate (nothing that counts).
        priority: normal, high or emergency: what is leased first.
        requested_by: who asked, for people.
        correlation_id: the asker's own name of what this is part of.
        metadata: whatever the asker wants to find again, as text.
        inputs: what it evaluates.
    """

    policy_id: Name
    mode: Annotated[PolicyRunMode, Field(strict=False)]
    priority: Annotated[PolicyRunPriority, Field(strict=False)] = PolicyRunPriority.NORMAL

    @model_validator(mode="after")
    def _check_mode_fields(self) -> Self:
        if self.mode is PolicyRunMode.INCREMENTAL and not self.inputs.sbom_set:
            raise invariant_error("an incremental run should have an inputs.sbomSet that is not empty")
        return self

    def spec(self) -> dict[str, Any]:
        """Gives the fields that say what is to be evaluated, by their Python names."""
        return {name: getattr(self, name) for name in PolicyRunSpec.model_fields}


class PolicyRunRequest(PolicyRunSpec):
    """Asks for a policy run.

    Attributes:
        tenant_id: whose run.
        run_id: the asker's own name of the run, unique for the tenant; one is made if none is given.
        queued_at: when it was asked for; now if it is not given.
    """

    schema_version: Literal["scheduler.policy-run-request@1"] = "scheduler.policy-run-request@1"
    tenant_id: Name
    run_id: Name | None = None
    queued_at: StoredTime | None = None

    def to_run(self, **fields: Any) -> "PolicyRunJob":
        """Gives the pending run this asks for, made now unless `fields` say otherwise."""
        now = _now()
        job_id = fields.pop("id", None) or uuid7()
        made = {"created_at": now, "available_at": now, "updated_at": now, "queued_at": self.queued_at or now}
        named = {"id": job_id, "tenant_id": self.tenant_id, "run_id": self.run_id or f"run:{job_id}"}
        return PolicyRunJob(**{**self.spec(), **named, **made, **fields})


class PolicyRunPayload(_PayloadFields):
    """What the payload of a stored run holds: all that no statement filters, orders or moves by. It never changes."""

    schema_version: Literal["scheduler.policy-run-job@1"]


_PAYLOAD_FIELDS: Final = frozenset(PolicyRunPayload.model_fields)


class PolicyRunJob(PolicyRunSpec):
    """A policy run as it stands.

    A move is pure: it gives a new value and stores nothing. It raises `IllegalTransition` where the transition table
    does not hold it, and `InvalidJob` where the new value could not be. A move that keeps the status keeps
    `updated_at` too, for that is the version it changes.

    Attributes:
        id: its key.
        run_id: the asker's own name of it, unique for the tenant.
        attempts: how often it was leased.
        last_attempt_at: when it was leased last.
        last_error: why its last attempt failed, or the run did.
        available_at: it is not leased before.
        submitted_at: when whoever runs it took it.
        completed_at: when it completed or failed.
        lease_owner: who dispatches it; only while it is dispatching.
        lease_expires_at: until when; after that another may have it.
        cancellation_requested: whether its end was asked for. Once it was, that stays so.
        cancellation_requested_at: when.
        cancellation_reason: why.
        canceled_at: when it was canceled.
        updated_at: the row's version, as it was read; on a value that was never stored, when it was made.
    """

    schema_version: Literal["scheduler.policy-run-job@1"] = "scheduler.policy-run-job@1"
    id: Id = Field(default_factory=uuid7)
    tenant_id: Name
    run_id: Name
    status: Annotated[PolicyRunStatus, Field(strict=False)] = Status.PENDING
    queued_at: StoredTime = Field(default_factory=_now)
    attempts: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = 0
    last_attempt_at: StoredTime | None = None
    last_error: ErrorText | None = None
    available_at: StoredTime = Field(default_factory=_now)
    submitted_at: StoredTime | None = None
    completed_at: StoredTime | None = None
    lease_owner: Name | None = None
    lease_expires_at: StoredTime | None = None
    cancellation_requested: bool = False
    cancellation_requested_at: StoredTime | None = None
    cancellation_reason: ErrorText | None = None
    canceled_at: StoredTime | None = None
    created_at: StoredTime = Field(default_factory=_now)
    updated_at: StoredTime = Field(default_factory=_now)

    @property
    def error(self) -> str | None:
        """Why its last attempt failed, as its log tells."""
        return self.last_error

    def payload_json(self) -> str:
        """Gives the payload, as it is stored: what no column holds."""
        return self.__pydantic_serializer__.to_json(
            self, by_alias=True, exclude_none=True, include=set(_PAYLOAD_FIELDS)
        ).decode()

    def stored(self, *, updated_at: datetime, **columns: Any) -> Self:
        """Gives this value as the database now holds it, at a version, with what the database decided itself."""
        twin = self.__copy__()
        twin.__dict__.update(columns, updated_at=updated_at)
        return twin

    @model_validator(mode="after")
    def _check_invariants(self) -> Self:
        # Times are not compared with one another: the clocks that made them differ.
        status = self.status
        leased = self.lease_owner is not None
        if leased != (self.lease_expires_at is not None):
            raise invariant_error("a lease should have both an owner and an end")
        if leased != (status is Status.DISPATCHING):
            raise invariant_error(f"a {status} run should {'not ' if leased else ''}have a lease")
        if status is Status.DISPATCHING and (self.attempts < 1 or self.last_attempt_at is None):
            raise invariant_error("a dispatching run should have attempts of 1 or more, and last_attempt_at")
        if status in (Status.SUBMITTED, Status.COMPLETED) and self.submitted_at is None:
            raise invariant_error(f"a {status} run should have submitted_at")
        if (self.completed_at is not None) != (status in (Status.COMPLETED, Status.FAILED)):
            raise invariant_error("completed and failed runs should have completed_at, and only they")
        if (self.canceled_at is not None) != (status is Status.CANCELED):
            raise invariant_error("canceled runs should have canceled_at, and only they")
        if status is Status.FAILED and self.last_error is None:
            raise invariant_error("a failed run should have last_error")
        if self.cancellation_requested != (self.cancellation_requested_at is not None):
            raise invariant_error("a run whose cancellation was requested should have cancellation_requested_at")
        if self.cancellation_requested and status is Status.PENDING:
            raise invariant_error("a pending run whose cancellation was requested should be canceled")
        return self

    def with_cancellation(self, at: datetime | None, reason: str | None) -> Self:
        """Gives this value as the database holds it, whose end was asked for then, or not."""
        asked = {"cancellation_requested": at is not None, "cancellation_requested_at": at}
        return self.stored(updated_at=self.updated_at, cancellation_reason=reason, **asked)

    def lease(self, *, at: datetime, owner: str, until: datetime) -> Self:
        """Pending to dispatching: the next attempt begins, and is the owner's until then."""
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
        """Dispatching goes on: the lease lasts longer.

        Every move takes `at`; a run that keeps its status keeps its version, too, for that is what it changes.
        """
        return self._transition(Status.DISPATCHING, from_status=Status.DISPATCHING, at=at, lease_expires_at=until)

    def release(self, *, at: datetime, available_at: datetime, error: str | None = None) -> Self:
        """Dispatching to pending: to be leased again, and not before `available_at`; without an error, in order.

        Raises:
            InvalidJob: its cancellation was requested.
        """
        if self.cancellation_requested:
            raise InvalidJob(
                "cancellation_requested: cancel it, for its end was asked for", field="cancellation_requested"
            )
        told = None if error is None else sanitize_error(error)
        return self._transition_clearing_lease(
            Status.PENDING,
            from_status=Status.DISPATCHING,
            at=at,
            available_at=available_at,
            last_error=told,
        )

    def submit(self, *, at: datetime) -> Self:
        """Dispatching to submitted: whoever runs it has taken it."""
        return self._transition_clearing_lease(
            Status.SUBMITTED, from_status=Status.DISPATCHING, at=at, submitted_at=at, last_error=None
        )

    def complete(self, *, at: datetime) -> Self:
        """Submitted to completed."""
        return self._transition(Status.COMPLETED, from_status=Status.SUBMITTED, at=at, completed_at=at)

    def fail(self, *, at: datetime, error: str) -> Self:
        """Dispatching or submitted to failed. The text is cleaned and cut, never refused."""
        return self._transition_clearing_lease(Status.FAILED, at=at, completed_at=at, last_error=sanitize_error(error))

    def request_cancellation(self, *, at: datetime, reason: str | None = None) -> Self:
        """Asks for the end of a run; a pending one is canceled by it, what its holder has goes on until he asks.

        Asked again, or of a final run, it changes nothing.
        """
        if self.cancellation_requested or self.status.is_final:
            return self
        told = None if reason is None else sanitize_error(reason)
        noted: dict[str, Any] = {
            "cancellation_requested": True,
            "cancellation_requested_at": at,
            "cancellation_reason": told,
        }
        if self.status is Status.PENDING:
            return self._transition(Status.CANCELED, at=at, canceled_at=at, **noted)
        return self.replace(**noted)

    def cancel(self, *, at: datetime) -> Self:
        """Pending, dispatching or submitted to canceled."""
        return self._transition_clearing_lease(Status.CANCELED, at=at, canceled_at=at)

    def _transition_clearing_lease(
        self, target: PolicyRunStatus, *, at: datetime, from_status: Any = None, **fields: Any
    ) -> Self:
        return self._transition(
            target, from_status=from_status, at=at, lease_owner=None, lease_expires_at=None, **fields
        )

    def _transition(
        self, target: PolicyRunStatus, *, at: datetime, from_status: PolicyRunStatus | None = None, **fields: Any
    ) -> Self:
        self.status.require_transition(target, from_status=from_status)
        version = self.updated_at if target is self.status else at
        return self.replace(status=target, updated_at=version, **fields)


class PolicyRunEvent(Event):
    """One entry of a run's log; see `Event`. `job_id` is the run's `id`."""

    status: Annotated[PolicyRunStatus, Field(strict=False)]
