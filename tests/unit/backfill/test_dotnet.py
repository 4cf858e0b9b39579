"""The forms in which the driver of .NET writes documents by default."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from bson import Int64, ObjectId
from bson.binary import Binary, UuidRepresentation
from bson.datetime_ms import DatetimeMS

from graphjobs.backfill.transform.mapping import Mapped, Rejection, map_document
from tests.backfill.documents import AT, ID, JOB_ID, LATER, build, event, overlay, run


def ticks_of(time: datetime) -> int:
    """Return the ticks of a time in UTC."""
    delta = time - datetime(1, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 10_000_000 + delta.microseconds * 10


def naive(time: datetime) -> datetime:
    """Return a time as bson decodes it."""
    return time.replace(tzinfo=None)


def pascal(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the element names of .NET's properties, and its type."""
    names = {name: name if name.startswith("_") else name[0].upper() + name[1:] for name in document}
    return {"_t": "Job", **{names[name]: value for name, value in document.items()}}


def guid(text: str, representation: int = UuidRepresentation.CSHARP_LEGACY) -> Binary:
    """Return a Guid in binary form."""
    return Binary.from_uuid(UUID(text), representation)


def value_of(collection: str, document: dict[str, Any], **options: Any) -> Any:
    """Return the value of a document that is imported."""
    mapped = map_document(collection, document, **options)
    assert isinstance(mapped, Mapped), mapped
    return mapped.value


def field_of(collection: str, document: dict[str, Any]) -> str:
    """Return the field that rejects a document; its reason names it."""
    rejection = map_document(collection, document)
    assert isinstance(rejection, Rejection), rejection
    assert rejection.field in rejection.reason
    return rejection.field


@pytest.mark.parametrize("number", [int, Int64, float])
def test_an_enumeration_is_its_word_or_number(number: type) -> None:
    """The numbers are those of the tables, for every enumeration, as Int32, Int64 and double."""
    job = value_of("graph_jobs", build(kind=number(0), status=number(4), trigger=number(1), completedAt=AT))
    assert ("canceled", "backfill") == (job.status, job.trigger)
    other = value_of("graph_jobs", overlay(kind=number(1), status=number(1), trigger=number(3), overlayKind=number(2)))
    assert ("running", "sbom-version", "vex") == (other.status, other.trigger, other.overlay_kind)
    policy_run = value_of("policy_runs", run(status=number(0), mode=number(2), priority=number(1)))
    assert ("pending", "simulate", "high") == (policy_run.status, policy_run.mode, policy_run.priority)
    assert "failed" == value_of("graph_job_events", event(status=number(3))).status
    assert "submitted" == value_of("policy_run_events", event(status=number(2))).status


@pytest.mark.parametrize("status", [-1, 5, 1.5, True, float("nan"), Int64(2**40), "1", [1]])
def test_another_number_is_rejected(status: Any) -> None:
    """Nothing is guessed."""
    assert "status" == field_of("graph_jobs", build(status=status))
    assert "status" == field_of("policy_runs", run(status=6))


@pytest.mark.parametrize("offset", [0, 120, -330, 840, Int64(-840), 60.0])
def test_a_datetimeoffset_is_ticks_of_the_local_clock(offset: Any) -> None:
    """As an array or as a document, for jobs, runs, their inputs and events."""
    ticks = Int64(ticks_of(AT) + int(offset) * 600_000_000)
    array, document = [ticks, offset], {"DateTime": naive(AT), "Ticks": ticks, "Offset": offset}
    for form in (array, document):
        job = value_of("graph_jobs", build(createdAt=form, status="running", startedAt=form))
        assert (AT, AT) == (job.created_at, job.started_at)
        policy_run = value_of("policy_runs", run(queuedAt=form, inputs={"vexCursor": form, "sbomSet": ["a"]}))
        assert (AT, AT) == (policy_run.queued_at, policy_run.inputs.vex_cursor)
        assert AT == value_of("graph_job_events", event(createdAt=form)).created_at
        assert AT == value_of("graph_jobs", build(createdAt=None, payload={"createdAt": form})).created_at


def test_a_long_is_ticks_in_utc() -> None:
    """As DateTime with the representation Int64 writes it; seconds and milliseconds since 1970 are no ticks."""
    mapped = map_document("graph_jobs", build(createdAt=Int64(ticks_of(AT))))
    assert isinstance(mapped, Mapped)
    assert (AT, (("createdAt", "was ticks"),)) == (mapped.value.created_at, mapped.changes)
    for number in (1, 1_764_000_000, Int64(1_764_000_000_000), 253_402_300_799_999, -1, 2**62, True):
        assert "createdAt" == field_of("graph_jobs", build(createdAt=number))


def test_an_empty_dictionary_may_be_an_empty_array() -> None:
    """Each representation as an array writes it so."""
    assert {} == value_of("graph_jobs", build(metadata=[])).metadata
    assert {} == value_of("policy_runs", run(metadata=[], inputs={"environment": []})).inputs.environment
    assert {} == value_of("graph_job_events", event(payload=[])).payload


def test_an_objectid_is_text_in_any_field_for_an_id() -> None:
    """As text with the representation ObjectId; also in lists and metadata."""
    key = ObjectId("507f1f77bcf86cd799439011")
    job = value_of("graph_jobs", overlay(tenantId=key, graphSnapshotId=key, subjects=[key], metadata={"by": key}))
    assert {str(key)} == {job.tenant_id, job.graph_snapshot_id, *job.subjects, *job.metadata.values()}
    policy_run = map_document("policy_runs", run(policyId=key))
    assert isinstance(policy_run, Mapped)
    assert [("policyId", "was an ObjectId")] == list(policy_run.changes)


def test_a_value_of_the_metadata_is_taken_out_of_its_type() -> None:
    """As a dictionary of objects writes each value that BSON does not have."""
    entries = {"a": {"_t": "System.Decimal", "_v": "1.50"}, "b": {"_t": "System.Guid", "_v": guid(ID)}}
    assert {"a": "1.50", "b": ID} == value_of("graph_jobs", build(metadata=entries)).metadata


def test_null_in_a_list_has_its_own_sentence() -> None:
    """The list is not missing."""
    rejection = map_document("graph_jobs", overlay(subjects=["a", None]))
    assert Rejection("subjects: must be a list of text, without null", "subjects") == rejection


def test_each_change_is_reported() -> None:
    """Also the 100 ns that a microsecond does not hold."""
    mapped = map_document("graph_jobs", build(status=1, startedAt=[ticks_of(AT) + 7, 0], correlationId=guid(ID)))
    assert isinstance(mapped, Mapped)
    assert [
        ("status", "was a number"),
        ("startedAt", "was ticks and an offset"),
        ("startedAt", "cut to microseconds"),
        ("attempts", "raised to 1"),
        ("correlationId", "was binary, uuidCsharp"),
    ] == list(mapped.changes)


@pytest.mark.parametrize(
    "form",
    [
        [ticks_of(AT)],
        [ticks_of(AT), 0, 0],
        [ticks_of(AT), 900],
        [ticks_of(AT), True],
        [float(ticks_of(AT)), 0],
        [-1, 0],
        [2**63, 0],
        {"DateTime": naive(LATER), "Ticks": ticks_of(AT), "Offset": 0},
        {"DateTime": naive(AT), "Ticks": ticks_of(AT), "Offset": 60},
        {"DateTime": naive(AT), "Ticks": 0, "Offset": 0},
        {"DateTime": naive(AT)},
    ],
)
def test_a_contradicting_time_is_rejected(form: Any) -> None:
    """The parts of a document with ticks must agree."""
    assert "startedAt" == field_of("graph_jobs", build(startedAt=form))


UNSET: list[Any] = [
    datetime(1, 1, 1),  # noqa: DTZ001  # as bson decodes it
    datetime(9999, 12, 31, 23, 59, 59, 999_000),  # noqa: DTZ001
    datetime(1, 1, 1, 5),  # noqa: DTZ001  # the local smallest time, in UTC
    DatetimeMS(-62_135_596_800_000 - 3_600_000),
    "0001-01-01T00:00:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+02:00",
    "0001-01-01T00:00:00.0000000-05:00",
    "9999-12-31T23:59:59.9999999Z",
    "9999-12-31T23:59:59.9999999-08:00",
    "9999-12-31T23:59:59.999+02:00",
    0,
    Int64(3_155_378_975_999_999_999),
    [Int64(0), 0],
    [0, 120],
    [3_155_378_975_999_999_999, 0],
    [3_155_378_975_999_999_999, -60],
    {"DateTime": datetime(1, 1, 1), "Ticks": 0, "Offset": 0},  # noqa: DTZ001
    {"DateTime": datetime(1, 1, 1), "Ticks": Int64(0)},  # noqa: DTZ001
]


@pytest.mark.parametrize("time", UNSET, ids=repr)
def test_an_unset_time_is_missing(time: Any) -> None:
    """In optional fields. In a required one it is an error with the name of the field."""
    job = value_of("graph_jobs", build(startedAt=time, completedAt=time, updatedAt=time))
    assert (None, None, None) == (job.started_at, job.completed_at, job.updated_at)
    names = ("lastAttemptAt", "submittedAt", "completedAt", "canceledAt", "leaseExpiresAt", "cancellationRequestedAt")
    policy_run = value_of("policy_runs", run(**dict.fromkeys(names, time), inputs={"advisoryCursor": time}))
    assert (None, None, None) == (policy_run.lease_expires_at, policy_run.submitted_at, policy_run.completed_at)
    assert policy_run.inputs.advisory_cursor is None
    assert "createdAt" == field_of("graph_jobs", build(createdAt=time))
    assert "createdAt" == field_of("graph_job_events", event(createdAt=time))


def test_pascal_case_is_accepted_at_every_level() -> None:
    """With `_t` beside it, and with the type of a value around it."""
    payload = pascal({"sbomId": "other", "cartographerJobId": "c-1"})
    job = value_of("graph_jobs", {**pascal(build(attempts=2, error="late")), "Payload": payload})
    assert ("sbom", "c-1", 2, "late") == (job.sbom_id, job.cartographer_job_id, job.attempts, job.error)
    inputs = {"_t": "Inputs", "_v": pascal({"sbomSet": {"_t": "List`1", "_v": ["b", "a"]}, "captureExplain": True})}
    policy_run = value_of("policy_runs", pascal(run(inputs=inputs, metadata=[["k", "v"]])))
    assert (("a", "b"), True) == (policy_run.inputs.sbom_set, policy_run.inputs.capture_explain)
    assert "v" == policy_run.metadata["k"]
    assert {"attempts": 1, "from": "queued", "to": "running"} == {
        name: item
        for name, item in value_of("graph_job_events", pascal(event())).payload.items()
        if not name.startswith("legacy")
    }
    inner = pascal({"jobId": JOB_ID, "tenantId": "acme", "status": 1, "createdAt": AT, "payload": {"a": 1}})
    assert "running" == value_of("graph_job_events", {"_id": 7, "Payload": inner}).status


def test_both_spellings_of_a_field_are_rejected() -> None:
    """It is unknown which one is right."""
    assert "tenantId" == field_of("graph_jobs", build(TenantId="other"))
    assert "inputs.sbomSet" == field_of("policy_runs", run(inputs={"sbomSet": ["a"], "SbomSet": ["b"]}))


@pytest.mark.parametrize(
    ("representation", "order"),
    [
        (UuidRepresentation.STANDARD, "csharp"),
        (UuidRepresentation.CSHARP_LEGACY, "csharp"),
        (UuidRepresentation.JAVA_LEGACY, "java"),
        (UuidRepresentation.PYTHON_LEGACY, "python"),
    ],
)
def test_every_id_may_be_a_guid(representation: int, order: Any) -> None:
    """Also names in lists, metadata and unknown fields."""
    key = guid(ID, representation)
    names = ("_id", "tenantId", "correlationId")
    job = value_of(
        "graph_jobs",
        build(
            **dict.fromkeys((*names, "sbomId", "sbomVersionId", "graphSnapshotId", "cartographerJobId", "owner"), key),
            metadata={"by": key},
        ),
        legacy_uuids=order,
    )
    assert {ID} == {job.tenant_id, job.correlation_id, job.sbom_id, job.graph_snapshot_id, job.cartographer_job_id}
    assert (ID, f'"{ID}"') == (job.metadata["by"], job.metadata["legacy.owner"])
    other = value_of("graph_jobs", overlay(buildJobId=key, subjects=[key, "a"], overlayKey=key), legacy_uuids=order)
    assert (UUID(ID), (ID, "a")) == (other.build_job_id, other.subjects)
    fields = dict.fromkeys((*names, "policyId", "runId", "requestedBy"), key)
    policy_run = value_of("policy_runs", run(**fields, inputs={"sbomSet": [key]}), legacy_uuids=order)
    assert (ID, ID, (ID,)) == (policy_run.policy_id, policy_run.run_id, policy_run.inputs.sbom_set)
    logged = value_of("graph_job_events", event(jobId=key, tenantId=key, payload={"by": [key]}), legacy_uuids=order)
    assert (UUID(ID), ID, [ID]) == (logged.job_id, logged.tenant_id, list(logged.payload["by"]))


def test_the_byte_order_that_the_id_shows_holds_for_the_whole_document() -> None:
    """One driver wrote it."""
    java = UuidRepresentation.JAVA_LEGACY
    job = value_of("graph_jobs", build(_id=guid(ID, java), id=ID, tenantId=guid(JOB_ID, java)))
    assert (UUID(ID), JOB_ID) == (job.id, job.tenant_id)


def test_a_text_with_a_field_twice_is_rejected() -> None:
    """Readers of JSON differ in which one they keep."""
    assert "metadata" == field_of("graph_jobs", build(metadata='{"a": "1", "a": "2"}'))
    assert "payload" == field_of("graph_job_events", event(payload='{"to": "running", "to": "failed"}'))
