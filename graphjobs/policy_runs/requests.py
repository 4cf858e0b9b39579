"""Requests of policy runs: a run, and the completion of a run. Frozen values, no database here."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import model_validator
from uuid_utils.compat import uuid7

from graphjobs.core.fields import FrozenModel, Name, Reason, utc_now
from graphjobs.core.invalid_values import invariant_error
from graphjobs.policy_runs.models import PolicyRunJob, PolicyRunSpec, StoredTime


class PolicyRunRequest(PolicyRunSpec):
    """A request of a policy run.

    Attributes:
        tenant_id: the tenant.
        run_id: the caller's name of the run, unique within the tenant; None makes one.
        queued_at: the time of the request; None means now.
    """

    schema_version: Literal["scheduler.policy-run-request@1"] = "scheduler.policy-run-request@1"
    tenant_id: Name
    run_id: Name | None = None
    queued_at: StoredTime | None = None

    def to_run(self, **fields: Any) -> PolicyRunJob:
        """Return the pending run of this request, made now unless `fields` differ."""
        now = utc_now()
        job_id = fields.pop("id", None) or uuid7()
        times = {"created_at": now, "available_at": now, "updated_at": now, "queued_at": self.queued_at or now}
        ids = {"id": job_id, "tenant_id": self.tenant_id, "run_id": self.run_id or f"run:{job_id}"}
        return PolicyRunJob(**{**self.spec(), **ids, **times, **fields})


class PolicyRunCompletion(FrozenModel):
    """The completion of a submitted run.

    Attributes:
        run_id: the run id.
        status: completed, failed, or canceled.
        error: why the run failed; required for a failed run. Any text: it is sanitized and cut to 4,000 characters.
    """

    run_id: Name
    status: Literal["completed", "failed", "canceled"]
    error: Reason | None = None

    @model_validator(mode="after")
    def _check_status_fields(self) -> Self:
        if (self.status == "failed") != (self.error is not None):
            raise invariant_error("a failed run must have an error, and another run must not")
        return self

    def apply_to(self, run: PolicyRunJob, *, at: datetime) -> PolicyRunJob:
        """Return the finished run.

        Raises:
            IllegalTransition: the run is not submitted.
        """
        if self.error is not None:
            return run.fail(at=at, error=self.error)
        return run.complete(at=at) if self.status == "completed" else run.cancel(at=at)
