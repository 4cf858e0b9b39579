"""The repository of graph jobs, as the plan contracts it: one statement a call, no event log."""

from uuid import UUID

from graphjobs.core.event_log import read_log
from graphjobs.core.fields import check_limit, check_name, parse_id
from graphjobs.core.pagination import PAGE_MAX, PartialList, read_rows
from graphjobs.core.validation import check_type, parse_member
from graphjobs.database.executor import Executor
from graphjobs.errors import JobAlreadyExists, JobNotFound
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob, Job
from graphjobs.graph_jobs.row_mapping import (
    check_job,
    event_from_row,
    job_from_row,
    job_params,
    swap_params,
)
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus


class GraphJobRepository:
    """Inserts, swaps, reads and lists graph jobs; each call is one statement and one round trip.

    A job is found by its own tenant and as its own type only. Every method raises `InvalidJob` for an invalid argument,
    before any SQL, and `DatabaseUnavailable`, `OutcomeUnknown` or `SchemaOutOfDate` as the executor does. `job_id` is a
    UUID or its text; text that is not a UUID is not found. Source: the plan's IGraphJobRepository.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def insert(self, job: Job) -> Job:
        """Insert a new job of either type and any status. `created_at` is the value's, the database sets `updated_at`.

        Returns:
            The job with its version, `updated_at`.

        Raises:
            JobAlreadyExists: the id is taken. Inside a session the transaction stays usable.
        """
        rows = await self._executor.fetch_all(single.INSERT_JOB, job_params(check_job(job)))
        if not rows:
            raise JobAlreadyExists(job.id)
        ((version,),) = rows
        return job.stored(updated_at=version)

    async def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> bool:
        """Swap a build job if it still has the status `expected` and the attempts that `job` follows from.

        A swap that keeps the status also compares `job.updated_at`: of two edits of one version only one is applied.

        Returns:
            True where this swap was applied; False where it lost, or the tenant has no such job. Then nothing changed.

        Raises:
            IllegalTransition: the transition table does not allow `expected` to `job.status`; raised before any SQL.
        """
        return await self._try_replace(GraphBuildJob, job, expected)

    async def try_replace_overlay(self, job: GraphOverlayJob, expected: GraphJobStatus) -> bool:
        """Swap an overlay job; see `try_replace`."""
        return await self._try_replace(GraphOverlayJob, job, expected)

    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        """Return a build job; None where the tenant has no build job with this id.

        Raises:
            CorruptRow: the row is unreadable.
        """
        return await self._get(GraphBuildJob, tenant_id, job_id)

    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        """Return an overlay job; see `get_build_job`."""
        return await self._get(GraphOverlayJob, tenant_id, job_id)

    async def list_build_jobs(
        self, tenant_id: str, status: GraphJobStatus | None = None, *, limit: int
    ) -> PartialList[GraphBuildJob]:
        """List a tenant's build jobs, newest first: `created_at DESC, id DESC`.

        Args:
            tenant_id: the tenant.
            status: only jobs of this status; None means all.
            limit: the most jobs, 1 to 1,000.

        Returns:
            The readable jobs. Unreadable rows are left out, and listed in `unreadable`.
        """
        return await self._list(GraphBuildJob, tenant_id, status, limit)

    async def list_overlay_jobs(
        self, tenant_id: str, status: GraphJobStatus | None = None, *, limit: int
    ) -> PartialList[GraphOverlayJob]:
        """List a tenant's overlay jobs; see `list_build_jobs`."""
        return await self._list(GraphOverlayJob, tenant_id, status, limit)

    async def append_event(self, event: GraphJobEvent) -> GraphJobEvent:
        """Append an event to a job's log.

        Returns:
            The event with its id.

        Raises:
            JobNotFound: the tenant has no such job.
        """
        check_type(event, GraphJobEvent, "event")
        params = {
            "p_job_id": event.job_id,
            "p_tenant_id": event.tenant_id,
            "p_status": event.status.code,
            "p_payload": event.payload_json(),
            "p_created_at": event.created_at,
        }
        rows = await self._executor.fetch_all(single.APPEND_EVENT, params)
        if not rows:
            raise JobNotFound(event.tenant_id, event.job_id)
        ((event_id,),) = rows
        return event.replace(id=event_id)

    async def list_events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[GraphJobEvent]:
        """List up to `limit` (1 to 1,000) events of a job after id `after`, oldest first; none of an unknown job."""
        return await read_log(
            self._executor, single.LIST_EVENTS, event_from_row, tenant_id, job_id, after=after, limit=limit
        )

    async def _try_replace(self, kind: type[Job], job: Job, expected: GraphJobStatus) -> bool:
        swap = swap_params(check_type(job, kind, "job"), expected, None)
        statement = single.REPLACE_JOB_AT_VERSION if "p_expected_version" in swap else single.REPLACE_JOB
        return bool(await self._executor.fetch_all(statement, swap))

    async def _get(self, kind: type[Job], tenant_id: str, job_id: UUID | str) -> Job | None:
        params = {"p_tenant_id": check_name(tenant_id, "tenant_id"), "p_type": kind.type.code}
        job = parse_id(job_id, "job_id")
        if job is None:
            return None
        rows = await self._executor.fetch_all(single.GET_JOB, {**params, "p_job_id": job})
        return job_from_row(kind, rows[0]) if rows else None

    async def _list(
        self, kind: type[Job], tenant_id: str, status: GraphJobStatus | None, limit: int
    ) -> PartialList[Job]:
        params = {
            "p_tenant_id": check_name(tenant_id, "tenant_id"),
            "p_type": kind.type.code,
            "p_limit": check_limit(limit, limit_max=PAGE_MAX),
        }
        statement = lists.LIST_JOBS
        if status is not None:
            statement = lists.LIST_JOBS_BY_STATUS
            params["p_status"] = parse_member(GraphJobStatus, status, "status").code
        rows = await self._executor.fetch_all(statement, params)
        return await read_rows(lambda row: job_from_row(kind, row), rows)
