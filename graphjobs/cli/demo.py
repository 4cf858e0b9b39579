"""`graphjobs demo`: real SBOMs through build and overlay jobs, with a progress bar, a table of jobs and a history."""

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
from graphjobs.settings import Settings
from graphjobs.storage import Storage, open_storage

_COLOURS = {GraphJobStatus.COMPLETED: "green", GraphJobStatus.FAILED: "red", GraphJobStatus.CANCELED: "yellow"}


def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(help="CycloneDX JSON SBOMs; none means those shipped with the package.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file; none means the shipped one.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=32, help="How many workers do the jobs.")] = 4,
) -> None:
    """Run the main job: a build and an overlay job for each SBOM, done by several workers beside one another.

    Exits 1 where a job failed, as it does for a file that is no SBOM; the rest is done.
    """
    try:
        rules = read_policy(policy or shipped_policy())
    except PolicyError as error:
        raise ConfigurationError(str(error)) from None
    # What fails stands in the table, with its reason.
    logging.getLogger("graphjobs").addHandler(logging.NullHandler())
    console = Console()
    report = asyncio.run(_run(console, list(files or shipped_sboms()), rules, workers))
    if any(job.status is GraphJobStatus.FAILED for job in report.finished):
        raise typer.Exit(Exit.FAILED)


async def _run(console: Console, paths: list[Path], policy: Policy, workers: int) -> Report:
    settings = Settings.load()
    if settings.database_url is None:
        console.print("[dim]no GRAPHJOBS_DATABASE_URL is set: the embedded PostgreSQL serves, and keeps its data[/]")
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

            def advance(ending: AttemptResult) -> None:
                # A build that failed gets no overlay.
                failed_build = isinstance(ending.job, GraphBuildJob) and ending.status is GraphJobStatus.FAILED
                name = ending.job.metadata.get("sbom", "")
                bar.update(task, advance=2 if failed_build else 1, description=f"{ending.job.type} {name}")

            report = await Demo(storage, policy, workers=workers, on_ended=advance).run(paths)
            bar.update(task, description="")
        console.print(_jobs_table(report))
        if report.finished:
            told = max(report.finished, key=lambda job: (job.type.code, int(job.metadata.get("findings", 0))))
            console.print(_history_table(told, list(await storage.graph_jobs.events(told.tenant_id, told.id))))
        console.print(await _summary(storage, report, policy, settings), markup=False, highlight=False)
    return report


def _jobs_table(report: Report) -> Table:
    table = Table(title=f"Jobs of run {report.run}", title_justify="left")
    for heading in ("kind", "tenant", "SBOM", "status", "result"):
        table.add_column(heading, overflow="fold")
    for job in sorted(report.finished, key=lambda job: (job.type.code, job.created_at, job.id)):
        status = Text(job.status, style=_COLOURS.get(job.status, ""))
        # As Text: what a file brought along is no markup.
        name = job.metadata.get("sbom") or (job.sbom_id if isinstance(job, GraphBuildJob) else "")
        table.add_row(job.type, job.tenant_id, Text(name), status, Text(_result(job)))
    return table


def _result(job: Job) -> str:
    if job.error is not None:
        return job.error
    if isinstance(job, GraphBuildJob):
        numbers = {name: job.metadata.get(name, "?") for name in ("nodes", "edges", "depth")}
        digest = (job.graph_snapshot_id or "")[:19]
        return f"{numbers['nodes']} nodes, {numbers['edges']} edges, depth {numbers['depth']}, {digest}…"
    return f"{job.metadata.get('findings', '?')} forbidden"


def _history_table(job: Job, events: list[GraphJobEvent]) -> Table:
    table = Table(title=f"Events of {job.type} job {job.id}", title_justify="left")
    for heading in ("event", "at (UTC)", "from", "to", "actor", "more"):
        table.add_column(heading, overflow="fold")
    for event in events:
        payload: dict[str, Any] = to_plain_json(event.payload)
        source, target, actor = (Text(str(payload.pop(key, ""))) for key in ("from", "to", "actor"))
        at = event.created_at.strftime("%H:%M:%S.%f")
        # What the last move found stands in the job itself.
        found: dict[str, Any] = (
            {"forbidden": job.metadata.get("forbidden", "").splitlines()} if event is events[-1] else {}
        )
        shown: dict[str, Any] = {key: payload[key] for key in ("attempts", "error") if key in payload}
        table.add_row(str(event.id), at, source, target, actor, Text(_lines({**shown, **found})))
    return table


def _lines(payload: dict[str, Any]) -> str:
    """Gives each entry a line, and each item of a list one of its own."""
    lines: list[str] = []
    for key, value in sorted(payload.items()):
        lines += [f"{key}: {item}" for item in (value if isinstance(value, list) else [value])]
    return "\n".join(lines)


async def _summary(storage: Storage, report: Report, policy: Policy, settings: Settings) -> str:
    """Counts who did what, and what earlier runs left beside."""
    beside = 0
    exact = True
    for tenant in TENANTS:
        everything = await storage.graph_jobs.count(tenant)
        beside += everything.value
        exact = exact and everything.exact
    beside -= len(report.finished)
    done = ", ".join(f"worker {number + 1} {jobs}" for number, jobs in enumerate(report.done))
    lines = [
        f"The policy: {policy.name}.",
        f"Jobs done: {done}.",
        f"Jobs of earlier runs beside these: {beside}{'' if exact else ' or more'}.",
    ]
    if settings.database_url is None:
        lines.append("The embedded server goes on running: see `graphjobs db status`, end it with `graphjobs db stop`.")
    return "\n".join(lines)
