"""Graph jobs and their events: invalid values, invariants and exact round trips."""

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs import GraphBuildJob, GraphJobEvent, GraphJobStatus, GraphOverlayJob, InvalidJob
from tests.builders import AT, build_job, overlay_job
from tests.unit.backfill.values import JSON


def _nested(levels: int) -> dict[str, Any]:
    innermost: dict[str, Any] = {}
    value = innermost
    for _ in range(levels):
        value = {"a": value}
    return value


_BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "empty tenant": ({"tenant_id": ""}, "tenant_id"),
    "long tenant": ({"tenant_id": "x" * 10_000}, "tenant_id"),
    "tenant with NUL": ({"tenant_id": "a\0b"}, "tenant_id"),
    "tenant with a lone surrogate": ({"tenant_id": "a\ud800"}, "tenant_id"),
    "tenant with a line": ({"tenant_id": "a\nb"}, "tenant_id"),
    "tenant that is bytes": ({"tenant_id": b"acme"}, "tenant_id"),
    "tenant that is a number": ({"tenant_id": 1}, "tenant_id"),
    "no tenant": ({"tenant_id": None}, "tenant_id"),
    "naive time": ({"created_at": datetime(2026, 1, 1)}, "created_at"),  # noqa: DTZ001  # a naive time is the case
    "time as text without an offset": ({"created_at": "2026-01-01T00:00:00"}, "created_at"),
    "time as text of digits": ({"created_at": "1764000000"}, "created_at"),
    "time as a number": ({"created_at": 1_764_000_000}, "created_at"),
    "year 10000 in UTC": (
        {"created_at": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))},
        "created_at",
    ),
    "wrong digest": ({"sbom_digest": "sha256:" + "A" * 64}, "sbom_digest"),
    "short digest": ({"sbom_digest": "sha256:abc"}, "sbom_digest"),
    "digest with a newline behind": ({"sbom_digest": "sha256:" + "a" * 64 + "\n"}, "sbom_digest"),
    "unknown field": ({"sbomFoo": 1}, "sbomFoo"),
    "boolean for a number": ({"attempts": True}, "attempts"),
    "float for a number": ({"attempts": 1.0}, "attempts"),
    "text for a number": ({"attempts": "1"}, "attempts"),
    "negative attempts": ({"attempts": -1}, "attempts"),
    "huge attempts": ({"attempts": 10**400}, "attempts"),
    "unknown status": ({"status": "pending"}, "status"),
    "status by its code": ({"status": 1}, "status"),
    "unknown trigger": ({"trigger": "cron"}, "trigger"),
    "text that is no UUID": ({"id": "42"}, "id"),
    "UUID in braces": ({"id": "{12345678-1234-5678-1234-567812345678}"}, "id"),
    "UUID as bytes": ({"id": bytes(16)}, "id"),
    "10 MB metadata": ({"metadata": {"a": "x" * 10_000_000}}, "metadata.a"),
    "100 kB metadata": ({"metadata": {f"key {number}": "x" * 4_000 for number in range(25)}}, "metadata"),
    "many metadata": ({"metadata": {str(i): "x" for i in range(65)}}, "metadata"),
    "metadata that nests": ({"metadata": _nested(5_000)}, "metadata.a"),
    "metadata with a number": ({"metadata": {"a": 1}}, "metadata.a"),
    "metadata with a bell": ({"metadata": {"a": "\x07"}}, "metadata.a"),
    "long error": ({"status": "failed", "completed_at": AT, "error": "x" * 4_001}, "error"),
    "wrong schema version": ({"schema_version": "scheduler.graph-build-job@2"}, "schema_version"),
}


@pytest.mark.parametrize("name", list(_BAD_FIELDS))
def test_an_invalid_value_is_rejected_with_its_field(name: str) -> None:
    fields, field = _BAD_FIELDS[name]
    with pytest.raises(InvalidJob, match=f"GraphBuildJob.{field}") as caught:
        build_job(**{"tenant_id": "acme", **fields})
    assert field == caught.value.field
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, ValueError)


_BROKEN_INVARIANTS: dict[str, dict[str, Any]] = {
    "started_at": {"status": "running", "attempts": 1},
    "attempts": {"status": "running", "started_at": AT},
    "completed_at": {"status": "completed", "attempts": 1, "started_at": AT},
    "must not have completed_at": {"completed_at": AT},
    "must have an error": {"status": "failed", "completed_at": AT},
    "must not have an error": {
        "status": "completed",
        "attempts": 1,
        "started_at": AT,
        "completed_at": AT,
        "error": "x",
    },
}


@pytest.mark.parametrize("rule", list(_BROKEN_INVARIANTS))
@pytest.mark.parametrize("make", [build_job, overlay_job])
def test_a_broken_invariant_is_rejected(rule: str, make: Callable[..., object]) -> None:
    with pytest.raises(InvalidJob, match=rule):
        make(**_BROKEN_INVARIANTS[rule])


def test_a_job_may_start_before_its_creation() -> None:
    """The clocks of the writers differ."""
    job = build_job(status="running", attempts=1, started_at=AT - timedelta(days=1), created_at=AT)
    assert job.status == GraphJobStatus.RUNNING


_BAD_JSON: dict[str, str] = {
    "cut off": '{"tenantId": "acme"',
    "an array": "[]",
    "nested 5,000 levels": '{"metadata": ' + "[" * 5_000,
    "a number of 5,000 digits": '{"attempts": ' + "9" * 5_000 + "}",
    "python's names for keys": '{"tenant_id": "acme"}',
    "NaN": '{"attempts": NaN}',
    "a lone surrogate": '{"tenantId": "\\ud800"}',
}


@pytest.mark.parametrize("name", list(_BAD_JSON))
def test_invalid_json_is_rejected(name: str) -> None:
    """Reading any row raises only InvalidJob."""
    with pytest.raises(InvalidJob, match="GraphBuildJob"):
        GraphBuildJob.from_json(_BAD_JSON[name])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("createdAt", "1764000000"),
        ("createdAt", 1_764_000_000),
        ("createdAt", "2026-01-01"),
        ("createdAt", "2026-01-01T00:00:00"),
        ("createdAt", "+12026-01-01T00:00:00Z"),
        ("createdAt", "9999-12-31T23:59:59-10:00"),
        ("createdAt", "2026-02-30T00:00:00Z"),
        ("updatedAt", "2026-01-01T00:00:00Z"),
        ("id", "urn:uuid:12345678-1234-5678-1234-567812345678"),
        ("attempts", "1"),
        ("attempts", True),
        ("status", "QUEUED"),
        ("unknown", 1),
    ],
)
def test_json_with_one_invalid_field_is_rejected(key: str, value: object) -> None:
    """The rules for JSON are those for Python."""
    payload = {**json.loads(build_job().to_json()), key: value}
    with pytest.raises(InvalidJob):
        GraphBuildJob.from_json(json.dumps(payload))


def test_a_time_of_seven_digits_is_cut_to_six() -> None:
    """The .NET service writes ticks of 100 ns; PostgreSQL keeps microseconds."""
    payload = {**json.loads(build_job().to_json()), "createdAt": "2026-01-02T03:04:05.6789019Z"}
    assert GraphBuildJob.from_json(json.dumps(payload)).created_at == AT


def test_common_forms_of_values_are_accepted() -> None:
    """Statuses and ids may be text, and subjects any iterable of strings."""
    build_id = str(build_job().id)
    job = overlay_job(build_job_id=build_id.upper(), subjects=(word for word in ["b", "a", "b"]), status="queued")
    assert (build_id, ("a", "b"), GraphJobStatus.QUEUED) == (str(job.build_job_id), job.subjects, job.status)


def test_invalid_subjects_are_rejected() -> None:
    """A string is rejected, although it is iterable; an endless generator stops at the limit."""

    def endless() -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    for bad in ("abc", endless(), [f"{i}" for i in range(1_001)], [1], {"a": "b"}):
        with pytest.raises(InvalidJob, match="subjects"):
            overlay_job(subjects=bad)


def test_a_value_is_immutable() -> None:
    job = build_job(metadata={"a": "b"})
    with pytest.raises(ValueError, match="frozen"):
        job.tenant_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        job.metadata["a"] = "c"  # type: ignore[index]
    event = GraphJobEvent(job_id=job.id, tenant_id="acme", status=GraphJobStatus.QUEUED, payload={"a": {"b": [1]}})
    with pytest.raises(TypeError):
        event.payload["a"]["b"] = 2


def test_a_copy_with_changes_is_checked() -> None:
    """The model_copy of pydantic would accept any value."""
    with pytest.raises(InvalidJob, match="tenant_id"):
        build_job().model_copy(update={"tenant_id": ""})
    assert build_job().model_copy(update={"tenant_id": "b"}).tenant_id == "b"


def test_the_version_is_not_part_of_the_payload() -> None:
    """Copies of a job with different versions are equal."""
    job = build_job()
    read = job.stored(updated_at=AT)
    assert "updatedAt" not in read.to_json()
    assert job == read
    assert hash(job) == hash(read)
    assert read.updated_at == AT


def test_jobs_of_different_types_are_never_equal() -> None:
    job = build_job()
    assert job != overlay_job(id=job.id)


_BAD_PAYLOADS: dict[str, Any] = {
    "NaN": {"a": float("nan")},
    "infinity": {"a": float("inf")},
    "a large integer": {"a": 2**64},
    "NUL": {"a": "\0"},
    "a lone surrogate": {"a": ["\ud800"]},
    "a lone surrogate in a key": {"\ud800": 1},
    "a key that is no text": {1: 2},
    "a nested key that is no text": {"a": {1: 2}},
    "a set": {"a": {1}},
    "5,000 levels": _nested(5_000),
    "33 levels": _nested(33),
    "100 kB": {"a": "x" * 100_000},
    "a list": [1],
    "text": "a",
}


@pytest.mark.parametrize("name", list(_BAD_PAYLOADS))
def test_a_payload_without_an_exact_jsonb_form_is_rejected(name: str) -> None:
    """JSONB rejects it, or stores a value that Python cannot read."""
    with pytest.raises(InvalidJob, match=r"GraphJobEvent\.payload"):
        GraphJobEvent(
            job_id=build_job().id, tenant_id="acme", status=GraphJobStatus.QUEUED, payload=_BAD_PAYLOADS[name]
        )


# --- round trips ---

_LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\t\n"), min_size=1, max_size=40)
_NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
_TIMES = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001  # hypothesis asks for naive bounds
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]),
)
_METADATA = st.dictionaries(_NAMES, _LINES, max_size=5)


@st.composite
def _common(draw: st.DrawFn) -> dict[str, Any]:
    status = draw(st.sampled_from(GraphJobStatus))
    started = status in (GraphJobStatus.RUNNING, GraphJobStatus.COMPLETED)
    fields: dict[str, Any] = {
        "tenant_id": draw(_NAMES),
        "status": status,
        "attempts": draw(st.integers(1 if started else 0, 99_999)),
        "correlation_id": draw(st.none() | _NAMES),
        "created_at": draw(_TIMES),
        "started_at": draw(_TIMES if started else st.none() | _TIMES),
        "completed_at": draw(_TIMES if status.is_final else st.none()),
        "metadata": draw(_METADATA),
    }
    if status is GraphJobStatus.FAILED:
        fields["error"] = draw(_LINES)
    return fields


_BUILD_JOBS = st.builds(
    lambda common, **fields: GraphBuildJob(**common, **fields),
    _common(),
    sbom_id=_NAMES,
    sbom_version_id=_NAMES,
    sbom_digest=st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format),
    graph_snapshot_id=st.none() | _NAMES,
    cartographer_job_id=st.none() | _NAMES,
    trigger=st.sampled_from(["sbom-version", "backfill", "manual"]),
)
_OVERLAY_JOBS = st.builds(
    lambda common, **fields: GraphOverlayJob(**common, **fields),
    _common(),
    graph_snapshot_id=_NAMES,
    build_job_id=st.none() | st.uuids(),
    overlay_kind=st.sampled_from(["policy", "advisory", "vex"]),
    overlay_key=_NAMES,
    subjects=st.lists(_NAMES, max_size=5),
    trigger=st.sampled_from(["policy", "advisory", "vex", "sbom-version", "manual"]),
)


@given(_BUILD_JOBS | _OVERLAY_JOBS)
def test_a_job_survives_json_pickle_and_copy(job: GraphBuildJob | GraphOverlayJob) -> None:
    text = job.to_json()
    back = type(job).from_json(text)
    assert job == back
    assert text == back.to_json()
    assert job == pickle.loads(pickle.dumps(job))  # noqa: S301  # our own bytes
    assert job == copy.deepcopy(job)
    assert not any("_" in key for key in json.loads(text))


@given(st.dictionaries(_NAMES, JSON, max_size=4), _TIMES)
def test_an_event_survives_json_and_pickle(payload: dict[str, Any], at: datetime) -> None:
    event = GraphJobEvent(
        id=7, job_id=build_job().id, tenant_id="a", status=GraphJobStatus.QUEUED, payload=payload, created_at=at
    )
    assert event == GraphJobEvent.from_json(event.to_json())
    assert event == pickle.loads(pickle.dumps(event))  # noqa: S301  # our own bytes
    # Decimal compares the digits of numbers, with an exponent or without.
    given, expected = (
        json.loads(text, parse_float=Decimal, parse_int=Decimal) for text in (json.dumps(payload), event.payload_json())
    )
    assert given == expected


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_reading_any_text_gives_a_job_or_invalid_job(text: str | bytes) -> None:
    try:
        job = GraphBuildJob.from_json(text)
    except InvalidJob:
        return
    assert isinstance(job, GraphBuildJob)


def test_the_same_value_gives_the_same_bytes() -> None:
    """The order of metadata and subjects does not change the JSON."""
    same: dict[str, Any] = {"id": "12345678-1234-5678-1234-567812345678", "created_at": AT}
    one = overlay_job(**same, subjects=["b", "a"], metadata={"b": "1", "a": "2"})
    two = overlay_job(**same, subjects={"a", "b"}, metadata={"a": "2", "b": "1"})
    assert one.to_json() == two.to_json()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1.5, 1.5),
        (1e15, 1e15),
        (1e16, 10**16),
        (-6.080374459464582e16, -60803744594645820),
        (1e30, 1e30),
        (10**30, 1e30),
        (1.7976931348623157e308, 1.7976931348623157e308),
        (5e-324, 5e-324),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_number_equals_the_number_in_the_database(number: float, expected: float) -> None:
    """PostgreSQL writes a float of 1e16 or more as an integer."""
    event = GraphJobEvent(job_id=build_job().id, tenant_id="a", status=GraphJobStatus.QUEUED, payload={"n": number})
    written_out = f'{{"n":{Decimal(repr(number)):f}}}'
    again = event.replace(payload=json.loads(written_out))
    assert expected == event.payload["n"] == again.payload["n"]
    assert type(expected) is type(event.payload["n"])


@pytest.mark.parametrize("number", [2**63, 2**64 + 1, 10**400, -(2**64)])
def test_an_integer_of_more_than_64_bits_is_rejected(number: int) -> None:
    with pytest.raises(InvalidJob, match="a JSON integer must fit 64 bits"):
        GraphJobEvent(job_id=build_job().id, tenant_id="a", status=GraphJobStatus.QUEUED, payload={"n": number})
