"""The pure moves: what each changes, what it keeps, and where it may start."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graphjobs import GraphBuildJob, GraphJobStatus, GraphOverlayJob, IllegalTransition, InvalidJob
from graphjobs.core.results import ATTEMPTS_MAX
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

_LATER = AT + timedelta(minutes=1)

Move = Callable[[Any], Any]


def _in_status(job: Any, status: GraphJobStatus) -> Any:
    match status:
        case Status.QUEUED:
            return job
        case Status.RUNNING:
            return job.start(at=AT)
        case Status.COMPLETED:
            return _complete(job.start(at=AT))
        case Status.FAILED:
            return job.fail(at=AT, error="broken")
    return job.cancel(at=AT)


def _complete(job: Any) -> Any:
    if isinstance(job, GraphBuildJob):
        return job.complete(at=_LATER, graph_snapshot_id="graph")
    return job.complete(at=_LATER)


_MOVES: dict[str, tuple[Move, set[GraphJobStatus], GraphJobStatus | None]] = {
    "edit": (lambda job: job.edit(metadata={"a": "b"}), {Status.QUEUED}, None),
    "start": (lambda job: job.start(at=_LATER), {Status.QUEUED}, Status.RUNNING),
    "renew": (lambda job: job.renew(at=_LATER, metadata={"a": "b"}), {Status.RUNNING}, None),
    "requeue": (lambda job: job.requeue(at=_LATER), {Status.RUNNING}, Status.QUEUED),
    "complete": (_complete, {Status.RUNNING}, Status.COMPLETED),
    "fail": (
        lambda job: job.fail(at=_LATER, error="broken"),
        {Status.QUEUED, Status.RUNNING},
        Status.FAILED,
    ),
    "cancel": (
        lambda job: job.cancel(at=_LATER),
        {Status.QUEUED, Status.RUNNING},
        Status.CANCELED,
    ),
}


@pytest.mark.parametrize("make", [build_job, overlay_job])
@pytest.mark.parametrize("status", list(GraphJobStatus))
@pytest.mark.parametrize("name", list(_MOVES))
def test_each_move_starts_where_the_table_lets_it(
    name: str, status: GraphJobStatus, make: Callable[[], GraphBuildJob | GraphOverlayJob]
) -> None:
    """From every status each move gives the status it leads to, or is refused."""
    move, sources, target = _MOVES[name]
    job = _in_status(make(), status)
    if status not in sources:
        with pytest.raises(IllegalTransition):
            move(job)
        return
    moved = move(job)
    assert (target or status) == moved.status
    assert (job.id, job.tenant_id, job.created_at) == (moved.id, moved.tenant_id, moved.created_at)


def test_a_move_leaves_the_value_it_starts_from_as_it_was() -> None:
    """Values are frozen: a move gives another one."""
    job = build_job()
    before = job.to_json()
    job.start(at=AT)
    assert before == job.to_json()


def test_attempts_rise_by_one_with_each_start() -> None:
    """After a release and a second start, a job has its second attempt; until then it keeps the first start."""
    first = build_job().start(at=AT)
    back = first.requeue(at=_LATER)
    second = back.start(at=_LATER)
    assert (back.attempts, back.started_at) == (1, AT)
    assert (second.attempts, second.started_at) == (2, _LATER)


def test_attempts_have_a_bound() -> None:
    """A job that was started 99,999 times is not started again."""
    job = build_job(attempts=ATTEMPTS_MAX)
    with pytest.raises(InvalidJob, match="attempts"):
        job.start(at=AT)


def test_starting_and_completing_clear_the_error_of_an_earlier_attempt() -> None:
    """The error of a requeued job is not that of the next attempt."""
    queued = build_job(error="the worker was lost", attempts=1, started_at=AT)
    assert queued.start(at=AT).error is None


def test_a_move_that_keeps_the_status_keeps_the_version() -> None:
    """An edit keeps the version that was read; a new status is a value without a version."""
    read = build_job().stored(updated_at=_LATER)
    assert read.edit(metadata={"a": "b"}).updated_at == _LATER
    assert read.start(at=AT).updated_at is None


def test_what_an_edit_does_not_name_stays() -> None:
    """None leaves a field as it is."""
    job = overlay_job(correlation_id="c", subjects=["b", "a"], metadata={"a": "b"})
    edited = job.edit(subjects=["z", "y", "z"])
    assert (edited.correlation_id, edited.subjects, edited.metadata) == ("c", ("y", "z"), {"a": "b"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("tab\tline\nend", "tab\tline\nend"),
        ("windows\r\nline", "windows\nline"),
        ("nul\0bell\x07", "nul\N{REPLACEMENT CHARACTER}bell\N{REPLACEMENT CHARACTER}"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("", "no reason was given"),
    ],
)
def test_an_error_text_is_cleaned_and_never_refused(text: str, expected: str) -> None:
    """Whatever a handler raised can be stored."""
    assert expected == build_job().fail(at=AT, error=text).error


def test_a_long_error_keeps_its_head_and_its_tail() -> None:
    """The last line of a traceback says most, so it stays."""
    error = build_job().fail(at=AT, error="head" + "x\0" * 5_000_000 + "tail").error
    assert error is not None
    assert error.startswith("head")
    assert error.endswith("tail")
    assert len(error) <= 4_000


def test_times_of_moves_are_kept_in_utc() -> None:
    """An aware time of another zone is the same moment, in UTC."""
    job = build_job().start(at=datetime.fromisoformat("2026-01-02T05:04:05.678901+02:00"))
    assert job.started_at is not None
    assert (AT.replace(hour=3), UTC) == (job.started_at, job.started_at.tzinfo)
