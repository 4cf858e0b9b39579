"""The transitions of graph jobs: changed fields, unchanged fields and legal statuses."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graphjobs import GraphBuildJob, GraphJobStatus, GraphOverlayJob, IllegalTransition, InvalidJob
from graphjobs.core.results import ATTEMPTS_MAX
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

_LATER = AT + timedelta(minutes=1)

Transition = Callable[[Any], Any]


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


_TRANSITIONS: dict[str, tuple[Transition, set[GraphJobStatus], GraphJobStatus | None]] = {
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
@pytest.mark.parametrize("name", list(_TRANSITIONS))
def test_each_transition_starts_from_its_legal_statuses(
    name: str, status: GraphJobStatus, make: Callable[[], GraphBuildJob | GraphOverlayJob]
) -> None:
    transition, sources, target = _TRANSITIONS[name]
    job = _in_status(make(), status)
    if status not in sources:
        with pytest.raises(IllegalTransition):
            transition(job)
        return
    result = transition(job)
    assert (target or status) == result.status
    assert (job.id, job.tenant_id, job.created_at) == (result.id, result.tenant_id, result.created_at)


def test_a_transition_does_not_change_its_source() -> None:
    job = build_job()
    before = job.to_json()
    job.start(at=AT)
    assert before == job.to_json()


def test_each_start_adds_one_attempt() -> None:
    """A released job keeps the time of its first start until the second."""
    first = build_job().start(at=AT)
    back = first.requeue(at=_LATER)
    second = back.start(at=_LATER)
    assert (back.attempts, back.started_at) == (1, AT)
    assert (second.attempts, second.started_at) == (2, _LATER)


def test_attempts_have_a_limit() -> None:
    job = build_job(attempts=ATTEMPTS_MAX)
    with pytest.raises(InvalidJob, match="attempts"):
        job.start(at=AT)


def test_starting_and_completing_clear_the_error_of_an_earlier_attempt() -> None:
    """The error of a requeued job is not that of the next attempt."""
    queued = build_job(error="the worker was lost", attempts=1, started_at=AT)
    assert queued.start(at=AT).error is None


def test_only_a_new_status_clears_the_version() -> None:
    """An edit keeps the version of the job."""
    read = build_job().stored(updated_at=_LATER)
    assert read.edit(metadata={"a": "b"}).updated_at == _LATER
    assert read.start(at=AT).updated_at is None


def test_an_edit_keeps_other_fields() -> None:
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
def test_any_error_text_is_cleaned_and_accepted(text: str, expected: str) -> None:
    """Any text of a handler can be stored."""
    assert expected == build_job().fail(at=AT, error=text).error


def test_a_long_error_keeps_its_first_and_last_characters() -> None:
    """The last line of a traceback is the most useful."""
    error = build_job().fail(at=AT, error="head" + "x\0" * 5_000_000 + "tail").error
    assert error is not None
    assert error.startswith("head")
    assert error.endswith("tail")
    assert len(error) <= 4_000


def test_times_of_transitions_are_in_utc() -> None:
    """An aware time of another zone is the same moment, in UTC."""
    job = build_job().start(at=datetime.fromisoformat("2026-01-02T05:04:05.678901+02:00"))
    assert job.started_at is not None
    assert (AT.replace(hour=3), UTC) == (job.started_at, job.started_at.tzinfo)
