"""`graphjobs policy`: submit, list, show, cancel and retry policy runs; prints tables, or JSON lines with --json."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from graphjobs.cli.output import echo, print_lines, print_table
from graphjobs.core.fields import check_name
from graphjobs.core.json_values import read_json
from graphjobs.core.pagination import PAGE_DEFAULT, PAGE_MAX
from graphjobs.errors import CorruptRow, InvalidJob, JobNotFound
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.requests import PolicyRunRequest
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus
from graphjobs.storage import open_storage

app = typer.Typer(help="Submit, list, show, cancel and retry policy runs.", no_args_is_help=True)

_ACTOR: Final = "cli"
_FILE_BYTES_MAX: Final = 1_048_576
_PUBLIC_STATUSES: Final = tuple(dict.fromkeys(status.public_status for status in PolicyRunStatus))
_OPTIONS: Final = {"policy_id": "--policy", "sbom_set": "--sbom", "statuses": "--status", "tenant_id": "--tenant"}
"""The options with another name than their field."""

_TIME_FORMAT: Final = "ISO 8601 with an offset, for instance 2026-01-02T03:04:05Z"

_Result = TypeVar("_Result")
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The id of the run.", show_default=False)]
Tenant = Annotated[str, typer.Option(help="The tenant of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@app.command()
def submit(
    policy_id: Annotated[str, typer.Argument(metavar="POLICY_ID", help="The policy to evaluate.", show_default=False)],
    tenant: Tenant,
    mode: Annotated[
        PolicyRunMode, typer.Option(help="full: all SBOMs; incremental: those of --sbom; simulate: no effect.")
    ] = PolicyRunMode.FULL,
    priority: Annotated[
        PolicyRunPriority, typer.Option(help="Higher priorities run first.")
    ] = PolicyRunPriority.NORMAL,
    policy_version: Annotated[
        int | None,
        typer.Option(help="The version of the policy, from 0; by default the current one when the run starts."),
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Your id of the run. A repeated call adds no second run.")] = None,
    sbom: Annotated[
        list[str] | None, typer.Option(help="An SBOM to evaluate. Repeatable; an incremental run needs at least one.")
    ] = None,
    advisory_cursor: Annotated[str | None, typer.Option(metavar="TIME", help="Use advisories up to this time.")] = None,
    vex_cursor: Annotated[str | None, typer.Option(metavar="TIME", help="Use VEX statements up to this time.")] = None,
    environment: Annotated[
        str,
        typer.Option(metavar="JSON|@FILE", help="Input of the policy: a JSON object of at most 64 KiB, or its file."),
    ] = "{}",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata of the run. Repeatable, up to 64 times.")
    ] = None,
    queued_at: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"When the run was requested, by default now: {_TIME_FORMAT}.")
    ] = None,
    requested_by: Annotated[str | None, typer.Option(help="The person or service that requests the run.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Your id of a group of runs.")] = None,
    capture_explain: Annotated[
        bool, typer.Option("--capture-explain", help="Store the explanation of each decision.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a policy run."""
    with _name_options(policy_id="POLICY_ID"):
        inputs = PolicyRunInputs(
            sbom_set=tuple(sbom or ()),
            advisory_cursor=_parse_time(advisory_cursor, "advisory_cursor"),
            vex_cursor=_parse_time(vex_cursor, "vex_cursor"),
            environment=_parse_environment(environment),
            capture_explain=capture_explain,
        )
        request = PolicyRunRequest(
            tenant_id=tenant,
            policy_id=policy_id,
            policy_version=policy_version,
            mode=mode,
            priority=priority,
            run_id=run_id,
            queued_at=_parse_time(queued_at, "queued_at"),
            requested_by=requested_by,
            correlation_id=correlation_id,
            metadata=_parse_metadata(metadata or ()),
            inputs=inputs,
        )
    run = _call(lambda service: service.enqueue(request, actor=_ACTOR))
    _print_result(run, f"{run.run_id} is {run.status.public_status}", as_json=as_json)


@app.command("list")
def list_runs(
    tenant: Tenant,
    policy: Annotated[str | None, typer.Option(help="List runs of this policy only.")] = None,
    mode: Annotated[PolicyRunMode | None, typer.Option(help="List runs of this mode only.")] = None,
    status: Annotated[
        list[str] | None,
        # Named: some versions of typer take a metavar that is the name in upper case for the name.
        typer.Option(
            "--status", metavar="STATUS", help=f"List runs of this status: {', '.join(_PUBLIC_STATUSES)}. Repeatable."
        ),
    ] = None,
    queued_after: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"List runs requested after this time: {_TIME_FORMAT}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, help="The maximum of runs to list.")] = PAGE_DEFAULT,
    cursor: Annotated[str | None, typer.Option(help="The cursor that the previous page printed.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. With --json, one line per run, then unreadable rows, then nextCursor."""
    with _name_options():
        query = PolicyRunQuery(
            policy_id=policy,
            mode=mode,
            statuses=_parse_statuses(status or ()),
            queued_after=_parse_time(queued_after, "queued_after"),
            limit=limit,
            cursor=cursor,
        )
        page = _call(lambda service: service.list(tenant, query))
    if as_json:
        lines = [_to_record(run) for run in page.runs]
        lines += [{"unreadable": {"id": str(row.row_id), "reason": row.reason}} for row in page.unreadable]
        lines += [{"nextCursor": page.next_cursor}] if page.next_cursor else []
        print_lines(lines)
        return
    cells = (
        (r.run_id, r.policy_id, r.mode, r.priority, r.status.public_status, r.attempts, _format_time(r.queued_at))
        for r in page.runs
    )
    print_table(("run", "policy", "mode", "priority", "status", "attempts", "queued at (UTC)"), cells)
    _print_unreadable(page.unreadable)
    if page.next_cursor:
        typer.echo(f"for the next page, add --cursor {page.next_cursor}", err=True)


@app.command()
def show(run_id: RunId, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a run and its events. With --json, the first line is the run, and each further line is an event."""
    with _name_options(run_id="RUN_ID"):
        run, events = asyncio.run(_read_run(tenant, run_id))
    record = _to_record(run)
    if as_json:
        print_lines([record, *(json.loads(event.to_json()) for event in events)])
        return
    print_table(("field", "value"), ((name, _format_value(value)) for name, value in record.items()))
    typer.echo()
    columns = ("from", "to", "actor", "error")
    rows = ((e.id, _format_time(e.created_at), *(e.payload.get(name, "") for name in columns)) for e in events)
    print_table(("event", "at (UTC)", *columns), rows)


async def _read_run(tenant: str, run_id: str) -> tuple[PolicyRunJob, list[PolicyRunEvent]]:
    """Return a run and all its events; unreadable events are left out and reported on standard error."""
    events: list[PolicyRunEvent] = []
    after = 0
    async with open_storage() as storage:
        run = await storage.policy_runs.get_by_run_id(tenant, run_id)
        if run is None:
            raise JobNotFound(tenant, run_id, what="policy run")
        while True:
            page = await storage.policy_runs.events(tenant, run.id, after=after, limit=PAGE_MAX)
            _print_unreadable(page.unreadable)
            events += page
            if len(page) + len(page.unreadable) < PAGE_MAX:
                return run, events
            after = max([event.id or 0 for event in page] + [int(row.row_id) for row in page.unreadable])


@app.command()
def cancel(
    run_id: RunId,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option(help="The reason; it is stored with the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a queued run, or request the cancellation of a running one from the process that runs it."""
    with _name_options(run_id="RUN_ID"):
        run = _call(lambda service: service.request_cancellation(tenant, run_id, reason=reason, actor=_ACTOR))
    requested = "" if run.status.is_final else ", its cancellation is requested"
    _print_result(run, f"{run.run_id} is {run.status.public_status}{requested}", as_json=as_json)


@app.command()
def retry(
    run_id: RunId,
    tenant: Tenant,
    new_run_id: Annotated[
        str | None, typer.Option("--run-id", help="Your id of the new run. A repeated call adds no second run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Retry a run that has ended: submit a new run with the same request, and the old run id in its metadata."""
    if new_run_id is not None:
        check_name(new_run_id, "--run-id")
    with _name_options(run_id="RUN_ID"):
        run = _call(lambda service: service.retry(tenant, run_id, new_run_id=new_run_id, actor=_ACTOR))
    _print_result(run, f"{run.run_id} is {run.status.public_status}, as a retry of {run_id}", as_json=as_json)


def _call(method: Callable[[PolicyRunService], Awaitable[_Result]]) -> _Result:
    """Call a method of the service on the storage of the settings."""

    async def call() -> _Result:
        async with open_storage() as storage:
            return await method(PolicyRunService(storage.policy_runs))

    return asyncio.run(call())


@contextmanager
def _name_options(**arguments: str) -> Iterator[None]:
    """Re-raise InvalidJob with the name of the command line option instead of the field.

    Args:
        arguments: the fields that are positional arguments, with their names.
    """
    try:
        yield
    except InvalidJob as error:
        field, problem = error.problems[0]
        name = field.partition(".")[0]
        option = {**_OPTIONS, **arguments}.get(name) or f"--{name.replace('_', '-')}"
        reason = problem.removeprefix(f"{field}: ").removeprefix(f"{field} ")
        sentence = f"{option} {reason}" if reason.startswith("must ") else f"{option}: {reason}"
        invalid = InvalidJob(sentence if field else reason, field=field, problems=error.problems)
    else:
        return
    raise invalid


def _parse_environment(text: str) -> dict[str, Any]:
    try:
        # NaN is accepted here: validation of the value refuses it with its own message.
        value = read_json(_read_file(text[1:]) if text.startswith("@") else text.encode())
    except ValueError as error:
        raise InvalidJob(f"must be JSON: {error}", field="environment") from None
    if isinstance(value, dict):
        return value
    raise InvalidJob("must be a JSON object, or @ and the path of a file that contains one", field="environment")


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidJob(f"reading the file {path} failed: {error.strerror}", field="environment") from None
    if len(content) > _FILE_BYTES_MAX:
        raise InvalidJob(f"the file {path} must have at most {_FILE_BYTES_MAX:,} bytes", field="environment")
    return content


def _parse_metadata(entries: Iterable[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator:
            raise InvalidJob("must be KEY=VALUE", field="metadata")
        if key in metadata:
            raise InvalidJob(f"the key {key} occurs twice", field="metadata")
        metadata[key] = value
    return metadata


def _parse_statuses(names: Iterable[str]) -> tuple[PolicyRunStatus, ...]:
    requested = set(names)
    if unknown := requested - set(_PUBLIC_STATUSES):
        problem = f"{min(unknown)!r} is not one of {', '.join(_PUBLIC_STATUSES)}"
        raise typer.BadParameter(problem, param_hint="--status")
    return tuple(status for status in PolicyRunStatus if status.public_status in requested)


def _parse_time(text: str | None, field: str) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is not None and time.tzinfo is not None:
        return time
    raise InvalidJob(f"must be a time in {_TIME_FORMAT}", field=field)


def _to_record(run: PolicyRunJob) -> dict[str, Any]:
    """Return a run as JSON, with its public status."""
    record = run.model_dump(mode="json", exclude={"schema_version"}, exclude_none=True)
    return {**record, "status": run.status.public_status}


def _print_result(run: PolicyRunJob, summary: str, *, as_json: bool) -> None:
    if as_json:
        print_lines([_to_record(run)])
    else:
        echo(summary)


def _print_unreadable(rows: Iterable[CorruptRow]) -> None:
    for row in rows:
        echo(f"graphjobs: {row}", err=True)


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_time(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
