"""The scheduler of the demonstration: add build jobs for SBOMs and run workers; prints nothing.

It shows how a service uses graphjobs: two handlers, an overlay job that is added with the completion of its build job,
and any number of workers that never claim the same job.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from graphjobs.core.metadata import METADATA_VALUE_LENGTH_MAX
from graphjobs.core.pagination import PAGE_MAX
from graphjobs.demo.documents import show_path
from graphjobs.demo.graph import DependencyGraph, build_graph
from graphjobs.demo.policy import Policy, evaluate
from graphjobs.demo.sbom import Sbom, SbomError, fingerprint, read_sbom
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.filters import GraphJobQuery
from graphjobs.graph_jobs.models import GraphBuildJob, GraphOverlayJob
from graphjobs.storage import Storage
from graphjobs.worker import BuildResult, GraphJobWorker, JobContext, OverlayResult, WorkerOptions

TENANTS: Final = ("demo-acme", "demo-globex")
"""The tenants of the SBOMs, in turn."""

HANDLER_TIME_MAX: Final = timedelta(minutes=2)
_POLL: Final = timedelta(milliseconds=20)
_CHECK_SECONDS: Final = 0.2
_FINDINGS_SHOWN: Final = 20
_FILE: Final = "file"

Job = GraphBuildJob | GraphOverlayJob


@dataclass
class Report:
    """The result of one run.

    Attributes:
        run: the correlation id of the run's jobs.
        jobs: the stored jobs of the run, in the order of their completion.
        jobs_per_worker: the number of jobs that each worker finished.
    """

    run: str
    jobs: list[Job] = field(default_factory=list)
    jobs_per_worker: list[int] = field(default_factory=list)


class Demo:
    """One run over a list of SBOMs.

    Args:
        storage: the storage of the jobs.
        policy: the policy that overlay jobs evaluate.
        workers: the number of workers, 1 or more.
        on_ended: called with the result of each job of this run.
    """

    def __init__(
        self,
        storage: Storage,
        policy: Policy,
        *,
        workers: int,
        on_ended: Callable[[AttemptResult], None] = lambda _result: None,
    ) -> None:
        self._storage = storage
        self._policy = policy
        self._workers = workers
        self._on_ended = on_ended
        self._paths: dict[UUID, Path] = {}
        self._graphs: dict[UUID, tuple[Sbom, DependencyGraph]] = {}
        self._expected = 0
        self._all_ended = asyncio.Event()
        self._report = Report(run=f"demo-{secrets.token_hex(4)}", jobs_per_worker=[0] * workers)

    async def run(self, paths: Sequence[Path]) -> Report:
        """Add a build job for each file, and run workers until all builds and overlays are final."""
        for number, path in enumerate(paths):
            await self._request_build(path, TENANTS[number % len(TENANTS)])
        workers = [self._worker(number, tenant) for number in range(self._workers) for tenant in TENANTS]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
            await self._until_all_have_ended()
            for worker in workers:
                worker.stop()
        self._report.jobs = await self._jobs()
        return self._report

    async def _until_all_have_ended(self) -> None:
        """Poll the stored jobs: workers of another process may run some of them."""
        while not all(job.status.is_final for job in await self._jobs()):
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._all_ended.wait()
            except TimeoutError:
                continue

    def _worker(self, number: int, tenant: str) -> GraphJobWorker:
        def count_result(result: AttemptResult) -> None:
            # Workers also run jobs that a killed run left queued; the report is of this run only.
            if result.job.correlation_id != self._report.run:
                return
            self._report.jobs_per_worker[number] += 1
            self._expected += len(result.followups)
            self._on_ended(result)
            if sum(self._report.jobs_per_worker) == self._expected:
                self._all_ended.set()

        options = WorkerOptions(
            tenant=tenant, name=f"worker {number + 1}", concurrency=1, poll=_POLL, time_limit=HANDLER_TIME_MAX
        )
        return GraphJobWorker(
            self._storage, build=self._build, overlay=self._overlay, options=options, on_ended=count_result
        )

    async def _request_build(self, path: Path, tenant: str) -> None:
        digest = await asyncio.to_thread(fingerprint, path)
        job = GraphBuildJob(
            tenant_id=tenant,
            sbom_id=show_path(path)[-200:],
            sbom_version_id=digest,
            sbom_digest=digest,
            trigger="manual",
            correlation_id=self._report.run,
            metadata=_file_metadata(path),
        )
        self._paths[job.id] = path
        self._expected += 1
        await self._storage.graph_jobs.add(job, actor="demo")

    async def _build(self, job: GraphBuildJob, _context: JobContext) -> BuildResult:
        """Read the SBOM and build its graph, in a thread because of the CPU time; add the overlay job of the graph."""
        sbom, graph = await asyncio.to_thread(_read_and_build, self._file_of(job))
        self._graphs[job.id] = (sbom, graph)
        sizes = {"nodes": len(graph.nodes), "edges": len(graph.edges), "depth": graph.depth}
        overlay = GraphOverlayJob(
            tenant_id=job.tenant_id,
            graph_snapshot_id=graph.snapshot_id,
            build_job_id=job.id,
            overlay_kind="policy",
            overlay_key=self._policy.digest,
            trigger="policy",
            correlation_id=job.correlation_id,
            metadata={"sbom": sbom.name},
        )
        if sbom.unresolved:
            sizes["unresolved"] = sbom.unresolved
        metadata = {"sbom": sbom.name, **{name: str(number) for name, number in sizes.items()}}
        if sbom.unresolved_refs:
            metadata["unresolvedRefs"] = "\n".join(sbom.unresolved_refs)
        return BuildResult(graph.snapshot_id, metadata=metadata, followups=[overlay])

    async def _overlay(self, job: GraphOverlayJob, _context: JobContext) -> OverlayResult:
        """Evaluate the policy on a built graph."""
        sbom, graph = await self._graph_of(job)
        findings = await asyncio.to_thread(evaluate, self._policy, sbom, graph)
        lines = [f"{finding.name}@{finding.version} ({finding.rule})" for finding in findings[:_FINDINGS_SHOWN]]
        forbidden = {"forbidden": "\n".join(lines)[:METADATA_VALUE_LENGTH_MAX]} if lines else {}
        return OverlayResult(metadata={"policy": self._policy.name, "findings": str(len(findings)), **forbidden})

    def _file_of(self, job: GraphBuildJob) -> Path:
        if job.id in self._paths:
            return self._paths[job.id]
        if _FILE not in job.metadata:
            raise SbomError("the job is of another run, and its metadata has no file path")
        return Path(job.metadata[_FILE])

    async def _graph_of(self, job: GraphOverlayJob) -> tuple[Sbom, DependencyGraph]:
        if job.build_job_id is None:
            raise SbomError("the overlay job has no build job")
        if job.build_job_id not in self._graphs:
            build = await self._storage.graph_jobs.get_build_job(job.tenant_id, job.build_job_id)
            if build is None:
                raise SbomError("the build job of the overlay job does not exist")
            self._graphs[build.id] = await asyncio.to_thread(_read_and_build, self._file_of(build))
        return self._graphs[job.build_job_id]

    async def _jobs(self) -> list[Job]:
        """Return the stored jobs of this run, in the order of their last transitions."""
        jobs: list[Job] = []
        for tenant in TENANTS:
            query: GraphJobQuery | None = GraphJobQuery(correlation_id=self._report.run, limit=PAGE_MAX)
            while query is not None:
                page = await self._storage.graph_jobs.get_jobs(tenant, query)
                jobs += page.jobs
                query = query.replace(cursor=page.next_cursor) if page.next_cursor else None
        return sorted(jobs, key=lambda job: (job.updated_at or job.created_at, job.id))


def _file_metadata(path: Path) -> dict[str, str]:
    """Return the file path as metadata, for workers of another run; nothing if it is too long or unprintable."""
    text = str(path.absolute())
    return {_FILE: text} if text.isprintable() and len(text) <= METADATA_VALUE_LENGTH_MAX else {}


def _read_and_build(path: Path) -> tuple[Sbom, DependencyGraph]:
    sbom = read_sbom(path)
    return sbom, build_graph(sbom)
