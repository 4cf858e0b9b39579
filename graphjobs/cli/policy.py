"""`graphjobs policy`: asks for policy runs, and shows, ends and retries them; tables for people, lines of JSON else."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from graphjobs.cli.output import print_lines, print_table
from graphjobs.core.fields import check_name
from graphjobs.core.json_values import read_json
from graphjobs.core.pagination import PAGE_DEFAULT, PAGE_MAX
from graphjobs.errors import InvalidJob, JobNotFound
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob, PolicyRunRequest
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.storage import open_storage

app = typer.Typer(help="Policy runs: ask for them, look at them, end them.", no_args_is_help=True)

_ACTOR: Final = "cli"
_FILE_BYTES_MAX: Final = 1_048_576
_WORDS: Final = tuple(dict.fromkeys(status.public_status for status in PolicyRunStatus))
_OPTIONS: Final = {"policy_id": "--policy", "sbom_set": "--sbom", "statuses": "--status", "tenant_id": "--tenant"}
"""Options that are not spelt as the field they fill."""

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's name.", show_default=False)]
Tenant = Annotated[str, typer.Option(help="Whose runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]


@app.command()
def submit(
    policy_id: Annotated[str, typer.Argument(metavar="POLICY_ID", help="Which policy.", show_default=False)],
    tenant: Tenant,
    mode: Annotated[
        PolicyRunMode, typer.Option(help="Over everything, over some SBOMs, or so that nothing counts.")
    ] = PolicyRunMode.FULL,
    priority: Annotated[PolicyRunPriority, typer.Option(help="What is run first.")] = PolicyRunPriority.NORMAL,
    policy_version: Annotated[int | None, typer.Option(help="None means the one in force when it runs.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Your own name of the run: asked for again, it is one.")] = None,
    sbom: Annotated[
        list[str] | None, typer.Option(help="An SBOM it is over; may be repeated. An incremental run needs some.")
    ] = None,
    advisory_cursor: Annotated[str | None, typer.Option(metavar="TIME", help="Where its advisories end.")] = None,
    vex_cursor: Annotated[str | None, typer.Option(metavar="TIME", help="Where its VEX statements end.")] = None,
    environment: Annotated[
        str, typer.Option(metavar="JSON|@FILE", help="A JSON object, or a file of one, for the policy to know.")
    ] = "{}",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find again; may be repeated.")
    ] = None,
    queued_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it was asked for, if not now: ISO 8601, with an offset.")
    ] = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asks, for people.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Your own name of what it is part of.")] = None,
    capture_explain: Annotated[bool, typer.Option("--capture-explain", help="Keep why it decides as it does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a policy run."""
    with _options_named(policy_id="POLICY_ID"):
        inputs = PolicyRunInputs(
            sbom_set=tuple(sbom or ()),
            advisory_cursor=_time(advisory_cursor, "advisory_cursor"),
            vex_cursor=_time(vex_cursor, "vex_cursor"),
            environment=_environment(environment),
            capture_explain=capture_explain,
        )
        request = PolicyRunRequest(
            tenant_id=tenant,
            policy_id=policy_id,
            policy_version=policy_version,
            mode=mode,
            priority=priority,
            run_id=run_id,
            queued_at=_time(queued_at, "queued_at"),
            requested_by=requested_by,
            correlation_id=correlation_id,
            metadata=_metadata(metadata or ()),
            inputs=inputs,
        )
    run = asyncio.run(_submit(request))
    _tell(run, f"{run.run_id} is {run.status.public_status}", as_json=as_json)


async def _submit(request: PolicyRunRequest) -> PolicyRunJob:
    async with _service() as (service, _):
        return await service.enqueue(request, actor=_ACTOR)


@app.command("list")
def list_runs(
    tenant: Tenant,
    policy: Annotated[str | None, typer.Option(help="Runs of this policy only.")] = None,
    mode: Annotated[PolicyRunMode | None, typer.Option(help="Runs of this mode only.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help=f"Runs that are {', '.join(_WORDS)}; may be repeated.")
    ] = None,
    queued_after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Asked for later than this: ISO 8601, with an offset.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, help="The most runs to list.")] = PAGE_DEFAULT,
    cursor: Annotated[str | None, typer.Option(help="Go on where a list ended, as it said.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. With --json a line is a run, but for unreadable rows, and nextCursor at the end."""
    with _options_named():
        query = PolicyRunQuery(
            policy_id=policy,
            mode=mode,
            statuses=_statuses(status or ()),
            queued_after=_time(queued_after, "queued_after"),
            limit=limit,
            cursor=cursor,
        )
        asyncio.run(_list(tenant, query, as_json=as_json))


async def _list(tenant: str, query: PolicyRunQuery, *, as_json: bool) -> None:
    async with _service() as (service, _):
        page = await service.list(tenant, **query.__dict__)
    if as_json:
        lines: list[dict[str, Any]] = [_record(run) for run in page.runs]
        lines += [{"unreadable": {"id": str(row.row_id), "reason": row.reason}} for row in page.unreadable]
        lines += [{"nextCursor": page.next_cursor}] if page.next_cursor else []
        print_lines(lines)
        return
    headings = ("run", "policy", "mode", "priority", "status", "attempts", "queued at (UTC)")
    print_table(
        headings,
        (
            (
                run.run_id,
                run.policy_id,
                run.mode,
                run.priority,
                run.status.public_status,
                run.attempts,
                _at(run.queued_at),
            )
            for run in page.runs
        ),
    )
    for row in page.unreadable:
        typer.echo(f"graphjobs: {row}", err=True)
    if page.next_cursor:
        typer.echo(f"there are more: --cursor {page.next_cursor}", err=True)


@app.command()
def show(run_id: RunId, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a run and its log; with --json the run is the first line, and each entry of its log one."""
    with _options_named(run_id="RUN_ID"):
        asyncio.run(_show(tenant, run_id, as_json=as_json))


async def _show(tenant: str, run_id: str, *, as_json: bool) -> None:
    async with _service() as (service, runs):
        run = await service.get(tenant, run_id)
        if run is None:
            raise JobNotFound(tenant, run_id, what="policy run")
        log = [event async for event in _log(runs, run)]
    if as_json:
        print_lines([_record(run), *(json.loads(event.to_json()) for event in log)])
        return
    record = _record(run)
    print_table(("field", "value"), ((name, _text(value)) for name, value in record.items()))
    typer.echo()
    told = ("from", "to", "actor", "error")
    print_table(
        ("event", "at (UTC)", *told),
        ((event.id, _at(event.created_at), *(event.payload.get(name, "") for name in told)) for event in log),
    )


async def _log(runs: PolicyRunRepository, run: PolicyRunJob) -> AsyncIterator[PolicyRunEvent]:
    """Reads a run's log to its end; a row that cannot be read is told of, and left out."""
    after = 0
    while True:
        page = await runs.events(run.tenant_id, run.id, after=after, limit=PAGE_MAX)
        for row in page.unreadable:
            typer.echo(f"graphjobs: {row}", err=True)
        for event in page:
            yield event
        if len(page) + len(page.unreadable) < PAGE_MAX:
            return
        after = max([event.id or 0 for event in page] + [int(row.row_id) for row in page.unreadable])


@app.command()
def cancel(
    run_id: RunId,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept with the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for the end of a run: at once if it is queued, else when whoever runs it next asks."""
    with _options_named(run_id="RUN_ID"):
        run = asyncio.run(_cancel(tenant, run_id, reason))
    asked = "" if run.status.is_final else ", and its end is asked for"
    _tell(run, f"{run.run_id} is {run.status.public_status}{asked}", as_json=as_json)


async def _cancel(tenant: str, run_id: str, reason: str | None) -> PolicyRunJob:
    async with _service() as (service, _):
        return await service.request_cancellation(tenant, run_id, reason=reason, actor=_ACTOR)


@app.command()
def retry(
    run_id: RunId,
    tenant: Tenant,
    new: Annotated[str | None, typer.Option("--run-id", help="The new run's name: asked for again, it is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask again for what a run that has ended was asked for: a new run, that names the old one."""
    if new is not None:
        check_name(new, "--run-id")
    with _options_named(run_id="RUN_ID"):
        run = asyncio.run(_retry(tenant, run_id, new))
    _tell(run, f"{run.run_id} is {run.status.public_status}, in place of {run_id}", as_json=as_json)


async def _retry(tenant: str, run_id: str, new: str | None) -> PolicyRunJob:
    async with _service() as (service, _):
        return await service.retry(tenant, run_id, new_run_id=new, actor=_ACTOR)


@asynccontextmanager
async def _service() -> AsyncIterator[tuple[PolicyRunService, PolicyRunRepository]]:
    async with open_storage() as storage:
        yield PolicyRunService(storage.policy_runs), storage.policy_runs


@contextmanager
def _options_named(**named: str) -> Iterator[None]:
    """Lets what cannot be be told by the option it was given as.

    Args:
        named: what fields are called here that are no option, or not the usual one.
    """
    try:
        yield
    except InvalidJob as error:
        field, problem = error.problems[0]
        name = field.partition(".")[0]
        option = {**_OPTIONS, **named}.get(name) or f"--{name.replace('_', '-')}"
        told = problem.removeprefix(f"{field}: ")
        invalid = InvalidJob(f"{option}: {told}" if field else told, field=field, problems=error.problems)
    else:
        return
    raise invalid


def _environment(text: str) -> dict[str, Any]:
    try:
        # NaN passes here: the value has a sentence of its own for it.
        found = read_json(_content(text[1:]) if text.startswith("@") else text.encode())
    except ValueError as error:
        raise InvalidJob(f"it is no JSON: {error}", field="environment") from None
    if isinstance(found, dict):
        return found
    raise InvalidJob("it should be a JSON object, or @ and the path of a file that holds one", field="environment")


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidJob(f"the file {path} cannot be read: {error.strerror}", field="environment") from None
    if len(content) > _FILE_BYTES_MAX:
        raise InvalidJob(f"the file {path} is larger than {_FILE_BYTES_MAX:,} bytes", field="environment")
    return content


def _metadata(entries: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        key, divided, value = entry.partition("=")
        if not divided:
            raise InvalidJob("it should be KEY=VALUE", field="metadata")
        if key in found:
            raise InvalidJob(f"{key} is given twice", field="metadata")
        found[key] = value
    return found


def _statuses(words: Iterable[str]) -> tuple[PolicyRunStatus, ...]:
    asked = set(words)
    if unknown := asked - set(_WORDS):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(_WORDS)}", param_hint="--status")
    return tuple(status for status in PolicyRunStatus if status.public_status in asked)


def _time(text: str | None, field: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is not None and found.tzinfo is not None:
        return found
    problem = "it should be a time of ISO 8601 with an offset, as 2026-01-02T03:04:05Z"
    raise InvalidJob(problem, field=field)


def _record(run: PolicyRunJob) -> dict[str, Any]:
    """Gives a run as JSON, its status by the word of the outside, as it is asked for and shown everywhere here."""
    told = run.model_dump(mode="json", exclude={"schema_version"}, exclude_none=True)
    return {**told, "status": run.status.public_status}


def _tell(run: PolicyRunJob, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_lines([_record(run)])
    else:
        typer.echo(sentence)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _at(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
