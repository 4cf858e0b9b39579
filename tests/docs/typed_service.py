"""A service as a user would write it, for the type checkers in `test_typing`. It is never run."""

from datetime import UTC, datetime
from typing import assert_type

from graphjobs import (
    BuildResult,
    GraphBuildJob,
    GraphJobQuery,
    GraphJobStatus,
    GraphJobType,
    GraphOverlayJob,
    Handlers,
    JobContext,
    PolicyRunJob,
    PolicyRunQuery,
    PolicyRunStatus,
    Settings,
    Storage,
    UpdateOutcome,
    open_storage,
)


async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
    """Build a graph."""
    assert_type(context.job, GraphBuildJob | GraphOverlayJob)
    return BuildResult(f"graph of {job.sbom_id}")


HANDLERS = Handlers(build=build)


async def start(storage: Storage, job: GraphBuildJob) -> str:
    """Start a job, and return what happened."""
    started = job.start(at=datetime.now(UTC))
    result = await storage.graph_jobs.update(started, expected=GraphJobStatus.QUEUED)
    if result:
        assert_type(result.job, GraphBuildJob)
        assert_type(result.event_id, int)
        return str(result.job.status.code)
    if result.outcome is UpdateOutcome.CONFLICT:
        assert_type(result.job, GraphBuildJob | None)
    return result.reason


async def replace(storage: Storage, run: PolicyRunJob) -> PolicyRunJob | None:
    """Cancel a run."""
    result = await storage.policy_runs.replace(run.cancel(at=datetime.now(UTC)), None)
    return result.job if result else None


async def main() -> str | None:
    """List jobs and runs, and start a job."""
    async with open_storage(Settings.load(database_url="postgresql://localhost/app")) as storage:
        page = await storage.graph_jobs.get_jobs("acme", GraphJobQuery(type=GraphJobType.BUILD, limit=10))
        assert_type(page.jobs, tuple[GraphBuildJob | GraphOverlayJob, ...])
        runs = await storage.policy_runs.list("acme", PolicyRunQuery(statuses=(PolicyRunStatus.PENDING,)))
        assert_type(runs.runs, tuple[PolicyRunJob, ...])
        job = await storage.graph_jobs.get_build_job("acme", page.jobs[0].id)
        return None if job is None else await start(storage, job)
