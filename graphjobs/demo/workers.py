"""The demonstration's scheduler: inserts build jobs for SBOMs, and workers that race for them; draws nothing.

It shows what a service does with graphjobs: each move and its event in one transaction, the overlay job of a graph in
the transaction that completes its build, and a lost swap as an answer to go on from.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from graphjobs.demo.documents import show_path
from graphjobs.demo.graph import DependencyGraph, build_graph
from graphjobs.demo.policy import Policy, evaluate
from graphjobs.demo.sbom import Sbom, SbomError, fingerprint, read_sbom
from graphjobs.jobs.models import GraphBuildJob, GraphOverlayJob
from graphjobs.jobs.queries import PAGE_MAX, GraphJobQuery
from graphjobs.jobs.status import GraphJobStatus
from graphjobs.storage import Storage
from graphjobs.values import METADATA_VALUE_LENGTH_MAX

TENANTS: Final = ("acme", "globex")
"""The SBOMs belong to these in turn: neither sees the other's."""

HANDLER_TIME_MAX: Final = timedelta(minutes=2)
_FINDINGS_SHOWN: Final = 20
_S = GraphJobStatus

Job = GraphBuildJob | GraphOverlayJob


@dataclass
class Report:
    """What happened in one run.

    Attributes:
        run: the correlation id of the run's jobs.
        finished: its jobs in the order they ended.
        won: swaps from queued to running, by worker.
        lost: the same swaps that another worker had won before.
    """

    run: str
    finished: list[Job] = field(default_factory=list)
    won: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class Demo:
    """One run over a number of SBOMs.

    Args:
        storage: where the jobs go.
        policy: what the overlays mark.
        workers: how many race, 1 or more.
        on_finished: called with each job as it ends.
    """

    def __init__(
        self, storage: Storage, policy: Policy, *, workers: int, on_finished: Callable[[Job], None] = lambda _job: None
    ) -> None:
        self._storage = storage
        self._policy = policy
        self._workers = workers
        self._on_finished = on_finished
        self._paths: dict[UUID, Path] = {}
        self._graphs: dict[UUID, tuple[Sbom, DependencyGraph]] = {}
        self._expected = 0
        self._report = Report(run=f"demo-{secrets.token_hex(4)}")

    async def run(self, paths: Sequence[Path]) -> Report:
        """Inserts a build job for each file, and works until each of them and its overlay has ended."""
        self._report.won, self._report.lost = [0] * self._workers, [0] * self._workers
        for number, path in enumerate(paths):
            await self._request_build(path, TENANTS[number % len(TENANTS)])
        async with asyncio.TaskGroup() as group:
            for worker in range(self._workers):
                group.create_task(self._work(worker))
        return self._report

    async def _request_build(self, path: Path, tenant: str) -> None:
        digest = await asyncio.to_thread(fingerprint, path)
        job = GraphBuildJob(
            tenant_id=tenant,
            sbom_id=show_path(path)[-200:],
            sbom_version_id=digest,
            sbom_digest=digest,
            trigger="manual",
            correlation_id=self._report.run,
        )
        self._paths[job.id] = path
        self._expected += 1
        await self._storage.graph_jobs.add(job, actor="demo")

    async def _work(self, worker: int) -> None:
        """Takes queued jobs until all have ended; another's win is no error, only a reason to look again."""
        while len(self._report.finished) < self._expected:
            queued = await self._queued()
            for job in queued:
                started = job.start(at=datetime.now(UTC))
                if await self._move(started, _S.QUEUED, worker=worker):
                    self._report.won[worker] += 1
                    await self._handle(started, worker)
                    break
                self._report.lost[worker] += 1
            if not queued:
                await asyncio.sleep(0.01)

    async def _queued(self) -> list[Job]:
        """This run's queued jobs, oldest first: those of a run that was killed are not ours to take."""
        query = GraphJobQuery(correlation_id=self._report.run, limit=PAGE_MAX)
        found = [job for tenant in TENANTS for job in (await self._storage.graph_jobs.get_jobs(tenant, query)).jobs]
        return sorted((job for job in found if job.status is _S.QUEUED), key=lambda job: (job.created_at, job.id))

    async def _handle(self, job: Job, worker: int) -> None:
        try:
            async with asyncio.timeout(HANDLER_TIME_MAX.total_seconds()):
                ended, overlay = await (self._build(job) if isinstance(job, GraphBuildJob) else self._overlay(job))
        except TimeoutError:
            ended = job.fail(at=datetime.now(UTC), error=f"it took longer than {HANDLER_TIME_MAX}")
            overlay = None
        except SbomError as error:
            ended, overlay = job.fail(at=datetime.now(UTC), error=str(error)), None
        except Exception as error:  # noqa: BLE001  # whatever one file does to a handler, the other jobs go on
            reason = f"{type(error).__name__}: {error}"
            ended, overlay = job.fail(at=datetime.now(UTC), error=reason), None
        if await self._move(ended, _S.RUNNING, worker=worker, follow_up=overlay):
            self._expected += overlay is not None
            self._report.finished.append(ended)
            self._on_finished(ended)

    async def _build(self, job: GraphBuildJob) -> tuple[Job, GraphOverlayJob | None]:
        """Reads the SBOM and builds its graph, in a thread, for it burns CPU; asks for the overlay of it."""
        sbom, graph = await asyncio.to_thread(_read_and_build, self._paths[job.id])
        self._graphs[job.id] = (sbom, graph)
        told = {"nodes": len(graph.nodes), "edges": len(graph.edges), "depth": graph.depth}
        noted = job.renew(metadata={"sbom": sbom.name, **{name: str(number) for name, number in told.items()}})
        ended = noted.complete(at=datetime.now(UTC), graph_snapshot_id=graph.snapshot_id)
        overlay = GraphOverlayJob(
            tenant_id=job.tenant_id,
            graph_snapshot_id=graph.snapshot_id,
            build_job_id=job.id,
            overlay_kind="policy",
            overlay_key=self._policy.digest,
            trigger="policy",
            correlation_id=self._report.run,
            metadata={"sbom": sbom.name},
        )
        return ended, overlay

    async def _overlay(self, job: GraphOverlayJob) -> tuple[Job, None]:
        """Marks what the policy forbids in a built graph."""
        if job.build_job_id is None:
            raise SbomError("the overlay names no build job")
        sbom, graph = self._graphs[job.build_job_id]
        findings = await asyncio.to_thread(evaluate, self._policy, sbom, graph)
        first = [f"{finding.name}@{finding.version} ({finding.rule})" for finding in findings[:_FINDINGS_SHOWN]]
        forbidden = {"forbidden": "\n".join(first)[:METADATA_VALUE_LENGTH_MAX]} if first else {}
        told = {"policy": self._policy.name, "findings": str(len(findings)), **forbidden}
        noted = job.renew(metadata={**job.metadata, **told})
        return noted.complete(at=datetime.now(UTC)), None

    async def _move(
        self, job: Job, expected: GraphJobStatus, *, worker: int, follow_up: GraphOverlayJob | None = None
    ) -> bool:
        """Moves a job and adds what follows from it: both or neither."""
        actor = f"worker {worker + 1}"
        async with self._storage.session() as session, session.begin():
            jobs = self._storage.graph_jobs.using(session)
            won = await jobs.update(job, expected=expected, actor=actor)
            if won.applied and follow_up is not None:
                await jobs.add(follow_up, actor=actor)
        return won.applied


def _read_and_build(path: Path) -> tuple[Sbom, DependencyGraph]:
    sbom = read_sbom(path)
    return sbom, build_graph(sbom)
