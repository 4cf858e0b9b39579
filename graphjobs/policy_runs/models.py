"""What a policy run and its request are: frozen values, their invariants, and pure moves; no database here."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from immutabledict import immutabledict
from pydantic import Field, model_validator
from uuid_utils.compat import uuid7

from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.values import ErrorText, Id, Json, Metadata, Name, Names, UtcTime, Value, broken, clean_error

ATTEMPTS_MAX = 99_999

_S = PolicyRunStatus


def _now() -> datetime:
    return datetime.now(UTC)


class PolicyRunInputs(Value):
    """What a run evaluates.

    Attributes:
        sbom_set: ids of SBOMs, sorted and unique; an incremental run needs some.
        advisory_cursor: where the advisories it sees end, or None.
        vex_cursor: where the VEX statements it sees end, or None.
        environment: whatever the policy is to know, as JSON: at most 64 KiB, 32 levels.
        capture_explain: whether it keeps why it decided as it did.
    """

    sbom_set: Names = ()
    advisory_cursor: UtcTime | None = None
    vex_cursor: UtcTime | None = None
    environment: Json = Field(default_factory=immutabledict)
    capture_explain: bool = False


class _Asked(Value):
    """What a request and the run that follows from it have in common."""

    tenant_id: Name
    policy_id: Name
    policy_version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    mode: Annotated[PolicyRunMode, Field(strict=False)]
    priority: Annotated[PolicyRunPriority, Field(strict=False)] = PolicyRunPriority.NORMAL
    queued_at: UtcTime | None = None
    requested_by: Name | None = None
    correlation_id: Name | None = None
    metadata: Metadata = Field(default_factory=immutabledict)
    inputs: PolicyRunInputs = Field(default_factory=PolicyRunInputs)

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> Self:
        if self.mode is PolicyRunMode.INCREMENTAL and not self.inputs.sbom_set:
            raise broken("an incremental run should have an inputs.sbom_set that is not empty")
        return self


class PolicyRunRequest(_Asked):
    """Asks for a policy run.

    Attributes:
        run_id: the asker's own name of the run, unique for the tenant; one is made if none is given.
    """

    schema_version: Literal["scheduler.policy-run-request@1"] = "scheduler.policy-run-request@1"
    run_id: Name | None = None

    def run(self, **fields: Any) -> "PolicyRunJob":
        """Gives the pending run this asks for."""
        given = {name: value for name, value in self.__dict__.items() if name not in ("schema_version", "run_id")}
        job_id = fields.pop("id", None) or uuid7()
        return PolicyRunJob(id=job_id, run_id=self.run_id or f"run:{job_id}", **{**given, **fields})


class PolicyRunJob(_Asked):
    """A policy run as it stands.

    A move is pure: it gives a new value and stores nothing. It raises `IllegalTransition` where the transition table
    does not hold it, and `InvalidJob` where the new value could not be.
    """

    schema_version: Literal["scheduler.policy-run-job@1"] = "scheduler.policy-run-job@1"
    id: Id = Field(default_factory=uuid7)
    run_id: Name
    status: Annotated[PolicyRunStatus, Field(strict=False)] = PolicyRunStatus.PENDING
    attempts: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = 0
    last_attempt_at: UtcTime | None = None
    last_error: ErrorText | None = None
    available_at: UtcTime = Field(default_factory=_now)
    submitted_at: UtcTime | None = None
    completed_at: UtcTime | None = None
    lease_owner: Name | None = None
    lease_expires_at: UtcTime | None = None
    cancellation_requested: bool = False
    cancellation_requested_at: UtcTime | None = None
    cancellation_reason: ErrorText | None = None
    canceled_at: UtcTime | None = None
    created_at: UtcTime = Field(default_factory=_now)
    updated_at: UtcTime = Field(default_factory=_now)

    @model_validator(mode="after")
    def _hold_invariants(self) -> Self:
        # Times are not compared with one another: the clocks that made them differ.
        status = self.status
        leased = self.lease_owner is not None
        if leased != (self.lease_expires_at is not None):
            raise broken("a lease should have both an owner and an end")
        if leased != (status is _S.DISPATCHING):
            raise broken(f"a {status} run should {'not ' if leased else ''}have a lease")
        if status is _S.DISPATCHING and (self.attempts < 1 or self.last_attempt_at is None):
            raise broken("a dispatching run should have attempts of 1 or more, and last_attempt_at")
        if status in (_S.SUBMITTED, _S.COMPLETED) and self.submitted_at is None:
            raise broken(f"a {status} run should have submitted_at")
        if (self.completed_at is not None) != (status in (_S.COMPLETED, _S.FAILED)):
            raise broken("completed and failed runs should have completed_at, and only they")
        if (self.canceled_at is not None) != (status is _S.CANCELED):
            raise broken("canceled runs should have canceled_at, and only they")
        if status is _S.FAILED and self.last_error is None:
            raise broken("a failed run should have last_error")
        if self.cancellation_requested != (self.cancellation_requested_at is not None):
            raise broken("a run whose cancellation was requested should have cancellation_requested_at")
        return self

    def lease(self, *, at: datetime, owner: str, until: datetime) -> Self:
        """Pending to dispatching: the next attempt begins, and is the owner's until then."""
        return self._moved(
            _S.DISPATCHING,
            only_from=_S.PENDING,
            at=at,
            attempts=self.attempts + 1,
            last_attempt_at=at,
            lease_owner=owner,
            lease_expires_at=until,
        )

    def renew(self, *, at: datetime, until: datetime) -> Self:
        """Dispatching goes on: the lease lasts longer."""
        return self._moved(_S.DISPATCHING, only_from=_S.DISPATCHING, at=at, lease_expires_at=until)

    def give_back(self, *, at: datetime, available_at: datetime, error: str | None = None) -> Self:
        """Dispatching to pending: to be leased again, and not before `available_at`."""
        told = self.last_error if error is None else clean_error(error)
        return self._unleased(_S.PENDING, only_from=_S.DISPATCHING, at=at, available_at=available_at, last_error=told)

    def submit(self, *, at: datetime) -> Self:
        """Dispatching to submitted: whoever runs it has taken it."""
        return self._unleased(_S.SUBMITTED, only_from=_S.DISPATCHING, at=at, submitted_at=at, last_error=None)

    def complete(self, *, at: datetime) -> Self:
        """Submitted to completed."""
        return self._moved(_S.COMPLETED, only_from=_S.SUBMITTED, at=at, completed_at=at)

    def fail(self, *, at: datetime, error: str) -> Self:
        """Dispatching or submitted to failed. The text is cleaned and cut, never refused."""
        return self._unleased(_S.FAILED, at=at, completed_at=at, last_error=clean_error(error))

    def request_cancellation(self, *, at: datetime, reason: str | None = None) -> Self:
        """Asks for the end of a run; a pending one is canceled by it, what its holder has goes on until he asks.

        Asked again, or of a final run, it changes nothing.
        """
        if self.cancellation_requested or self.status.is_final:
            return self
        told = None if reason is None else clean_error(reason)
        noted = self.changed(
            cancellation_requested=True, cancellation_requested_at=at, cancellation_reason=told, updated_at=at
        )
        return noted.cancel(at=at) if noted.status is _S.PENDING else noted

    def cancel(self, *, at: datetime) -> Self:
        """Pending, dispatching or submitted to canceled."""
        return self._unleased(_S.CANCELED, at=at, canceled_at=at)

    def _unleased(self, target: PolicyRunStatus, *, at: datetime, only_from: Any = None, **fields: Any) -> Self:
        return self._moved(target, only_from=only_from, at=at, lease_owner=None, lease_expires_at=None, **fields)

    def _moved(
        self, target: PolicyRunStatus, *, at: datetime, only_from: PolicyRunStatus | None = None, **fields: Any
    ) -> Self:
        self.status.require_move_to(target, only_from=only_from)
        return self.changed(status=target, updated_at=at, **fields)
