"""`graphjobs demo`: run build and overlay jobs for real SBOMs; show a progress bar, the jobs and the events of one."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from graphjobs.cli.exit_codes import Exit
from graphjobs.core.json_values import to_plain_json
from graphjobs.demo.policy import Policy, PolicyError, read_policy, shipped_policy
from graphjobs.demo.sbom import shipped_sboms
from graphjobs.demo.workers import TENANTS, Demo, Job, Report
from graphjobs.errors import ConfigurationError
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.settings import EMBEDDED, Settings
from graphjobs.storage import Storage, open_storage

_UNRESOLVED_SHOWN = 3
_COLOURS = {GraphJobStatus.COMPLETED: "green", GraphJobStatus.FAILED: "red", GraphJobStatus.CANCELED: "yellow"}


def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(help="CycloneDX JSON SBOMs, by default those of the package.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file, by default the one of the package.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=32, help="The number of workers.")] = 4,
) -> None:
    """Run a build job and an overlay job for each SBOM, with several concurrent workers.

    Exits 1 if a job failed, for instance because its file is not an SBOM; the other jobs still run.
    """
    try:
        rules = read_policy(policy or shipped_policy())
    except PolicyError as error:
        raise ConfigurationError(str(error)) from None
    # Failures are in the table, with their reasons.
    logging.getLogger("graphjobs").addHandler(logging.NullHandler())
    console = Console()
    report = asyncio.run(_run(console, list(files or shipped_sboms()), rules, workers))
    if any(job.status is GraphJobStatus.FAILED for job in report.jobs):
        raise typer.Exit(Exit.FAILED)


async def _run(console: Console, paths: list[Path], policy: Policy, workers: int) -> Report:
    settings = Settings.load()
    if settings.database_url is None:
        settings = Settings.load(database_url=EMBEDDED)
        console.print(
            "[dim]GRAPHJOBS_DATABASE_URL is not set: the demo uses the embedded PostgreSQL, which keeps its data[/]"
        )
    async with open_storage(settings) as storage:
        bar = Progress(
            TextColumn("jobs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
        )
        with bar:
            task = bar.add_task("", total=2 * len(paths))

            def advance(result: AttemptResult) -> None:
                # A failed build has no overlay.
                failed_build = isinstance(result.job, GraphBuildJob) and result.status is GraphJobStatus.FAILED
                name = result.job.metadata.get("sbom", "")
                bar.update(task, advance=2 if failed_build else 1, description=f"{result.job.type} {name}")

            report = await Demo(storage, policy, workers=workers, on_ended=advance).run(paths)
            bar.update(task, description="")
        console.print(_jobs_table(report))
        if report.jobs:
            example = max(report.jobs, key=lambda job: (job.type.code, int(job.metadata.get("findings", 0))))
            console.print(_event_table(example, list(await storage.graph_jobs.events(example.tenant_id, example.id))))
        console.print(await _summary(storage, report, policy, settings), markup=False, highlight=False)
    return report


def _jobs_table(report: Report) -> Table:
    table = Table(title=f"Jobs of run {report.run}", title_justify="left")
    for heading in ("type", "tenant", "SBOM", "status", "result"):
        table.add_column(heading, overflow="fold")
    for job in sorted(report.jobs, key=lambda job: (job.type.code, job.created_at, job.id)):
        status = Text(job.status, style=_COLOURS.get(job.status, ""))
        # As Text: rich would interpret brackets of a file name as markup.
        name = job.metadata.get("sbom") or (job.sbom_id if isinstance(job, GraphBuildJob) else "")
        table.add_row(job.type, job.tenant_id, Text(name), status, Text(_result(job)))
    return table


def _result(job: Job) -> str:
    if job.error is not None:
        return job.error
    if isinstance(job, GraphBuildJob):
        numbers = {name: job.metadata.get(name, "?") for name in ("nodes", "edges", "depth")}
        digest = (job.graph_snapshot_id or "")[:19]
        unresolved = _unresolved(job)
        return f"{numbers['nodes']} nodes, {numbers['edges']} edges, depth {numbers['depth']}{unresolved}, {digest}…"
    return f"{job.metadata.get('findings', '?')} forbidden"


def _unresolved(job: GraphBuildJob) -> str:
    """Return the number of references without a component, and the first of them."""
    if "unresolved" not in job.metadata:
        return ""
    refs = job.metadata.get("unresolvedRefs", "").splitlines()
    shown = ", ".join(refs[:_UNRESOLVED_SHOWN]) + (", …" if len(refs) > _UNRESOLVED_SHOWN else "")
    return f", {job.metadata['unresolved']} unresolved ({shown})"


def _event_table(job: Job, events: list[GraphJobEvent]) -> Table:
    table = Table(title=f"Events of {job.type} job {job.id}", title_justify="left")
    for heading in ("event", "at (UTC)", "from", "to", "actor", "details"):
        table.add_column(heading, overflow="fold")
    for event in events:
        payload: dict[str, Any] = to_plain_json(event.payload)
        source, target, actor = (Text(str(payload.pop(key, ""))) for key in ("from", "to", "actor"))
        at = event.created_at.strftime("%H:%M:%S.%f")
        details = [f"{key}: {payload[key]}" for key in ("attempts", "error") if key in payload]
        if event is events[-1]:  # the findings of the overlay are in the job
            details += [f"forbidden: {finding}" for finding in job.metadata.get("forbidden", "").splitlines()]
        table.add_row(str(event.id), at, source, target, actor, Text("\n".join(details)))
    return table


async def _summary(storage: Storage, report: Report, policy: Policy, settings: Settings) -> str:
    """Return the number of jobs of each worker, and of earlier runs."""
    counts = [await storage.graph_jobs.count(tenant) for tenant in TENANTS]
    earlier = sum(count.value for count in counts) - len(report.jobs)
    or_more = "" if all(count.exact for count in counts) else " or more"
    per_worker = ", ".join(f"worker {number} {jobs}" for number, jobs in enumerate(report.jobs_per_worker, start=1))
    lines = [
        f"Policy: {policy.name}.",
        f"Jobs per worker: {per_worker}.",
        f"Jobs of earlier runs: {earlier}{or_more}.",
    ]
    if settings.is_embedded:
        lines.append("The embedded server is still running: stop it with `graphjobs db stop`.")
    return "\n".join(lines)
