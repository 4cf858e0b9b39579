"""The reverse mapping: any stored value has a document that maps to the same value with the original `_id`."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import Int64, ObjectId, json_util
from bson.binary import Binary, UuidRepresentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs import GraphJobEvent, GraphJobStatus, InvalidJob
from graphjobs.backfill.extract.decoding import decoder
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transform.mapping import Mapped, MappedValue, map_document
from graphjobs.backfill.transform.reverse_mapping import to_document
from graphjobs.policy_runs.models import PolicyRunEvent
from tests.backfill import dumps
from tests.backfill.documents import AT, ID, JOB_ID, build, event, overlay, run
from tests.backfill.dumps import DumpGenerator, GeneratedDocument, Outcome
from tests.builders import build_job, overlay_job, policy_run
from tests.unit.backfill.values import events, graph_jobs, policy_runs

_MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_PRECISE = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
_TRUNCATED = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
_UUID = UUID(ID)


def _event(**fields: Any) -> GraphJobEvent:
    return GraphJobEvent(job_id=UUID(JOB_ID), tenant_id="a", status=GraphJobStatus.QUEUED, created_at=AT, **fields)


def _through_bson(document: dict[str, Any]) -> dict[str, Any]:
    read = decoder("bson")(bson.encode(document))
    assert isinstance(read, dict), read
    return read


def _through_json(document: dict[str, Any]) -> dict[str, Any]:
    text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)
    read = decoder("json")(text.encode())
    assert isinstance(read, dict), read
    return read


def _require_same(collection: str, value: MappedValue) -> dict[str, Any]:
    """Check that a value's document maps to the same value, also as BSON and as JSON. Return the document."""
    document = to_document(value)
    assert _three_of(value) == _restored(collection, document)
    return document


def _restored(collection: str, document: dict[str, Any]) -> list[Any]:
    """Map a document to its exact value: as it is, as BSON and as JSON."""
    values = []
    for read in (document, _through_bson(document), _through_json(document)):
        mapped = map_document(collection, read)
        assert isinstance(mapped, Mapped), mapped
        values.append(_exact_parts(mapped.value))
    return values


def _three_of(value: MappedValue) -> list[Any]:
    return [_exact_parts(value)] * 3


def _exact_parts(value: MappedValue) -> tuple[MappedValue, str, Any]:
    """Return a value with its exact JSON and its version, which the value's own equality ignores."""
    return value, _exactly(value), getattr(value, "updated_at", None)


def _exactly(value: MappedValue) -> str:
    """Return text that differs for 1, 1.0 and true, which are equal in Python. JSONB sorts its keys itself."""
    return json.dumps(json.loads(value.to_json()), sort_keys=True)


@_MANY
@given(graph_jobs())
def test_any_graph_job_is_restored(job: Any) -> None:
    """Any text and time, with full metadata or with legacy ids of other jobs."""
    assert _three_of(job) == _restored(JOBS, to_document(job))


@_MANY
@given(policy_runs())
def test_any_policy_run_is_restored(job: Any) -> None:
    """Any status, and any JSON as the environment."""
    assert _three_of(job) == _restored(RUNS, to_document(job))


@_MANY
@given(st.data())
@pytest.mark.parametrize(("collection", "kind"), [(EVENTS, GraphJobEvent), (RUN_EVENTS, PolicyRunEvent)])
def test_any_event_is_restored(collection: str, kind: Any, data: st.DataObject) -> None:
    """Any number, and any JSON as the payload."""
    value = data.draw(events(kind))
    document = _require_same(collection, value)
    assert Int64(value.id or 0) in (document["_id"], document.get("id"))


@pytest.mark.parametrize("order", ["csharp", "java", "python"])
@pytest.mark.parametrize("encoding", ["bson", "json"])
def test_documents_of_a_dump_get_their_legacy_ids_back(order: Any, encoding: str) -> None:
    """Ids and references have the original type and value."""
    generator = DumpGenerator(11, dirty=0, legacy_uuids=order)
    through = _through_bson if encoding == "bson" else _through_json
    documents: list[GeneratedDocument] = [*generator.jobs(300), *generator.runs(200), *generator.events(300)]
    kinds = set()
    for generated in documents:
        if generated.outcome is Outcome.REJECTED:
            continue
        first = map_document(generated.collection, generated.document, legacy_uuids=order)
        assert isinstance(first, Mapped), first
        value = first.value.replace(id=7) if isinstance(first.value, GraphJobEvent) else first.value
        back = through(to_document(value))
        _require_same_id(generated.document["_id"], back["_id"])
        kinds.add((generated.collection, type(back["_id"])))
        if generated.collection == dumps.EVENTS:
            _require_same_id(generated.document["jobId"], back["jobId"])
        again = map_document(generated.collection, back)
        assert isinstance(again, Mapped)
        assert value == again.value
    assert {(JOBS, str), (JOBS, Binary), (JOBS, ObjectId), (RUNS, Binary), (EVENTS, ObjectId)} <= kinds


def _require_same_id(old: Any, back: Any) -> None:
    assert (type(old), old, getattr(old, "subtype", None)) == (type(back), back, getattr(back, "subtype", None))


_OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
_LEGACY: dict[str, tuple[str, dict[str, Any], Any]] = {
    "an _id beside its id": (JOBS, build(_id=_OBJECT_ID, id=ID), {"_id": _OBJECT_ID, "id": ID}),
    "an _id beside an old id": (JOBS, build(_id=_OBJECT_ID, id="old"), {"_id": _OBJECT_ID, "id": "old"}),
    "upper case": (RUNS, run(_id=ID.upper()), {"_id": ID.upper()}),
    "a build job's ObjectId": (JOBS, overlay(buildJobId=_OBJECT_ID), {"_id": ID, "buildJobId": _OBJECT_ID}),
    "a build job's text": (JOBS, overlay(buildJobId="old"), {"buildJobId": "old"}),
    "an event's text": (EVENTS, event(_id="old", id=9), {"_id": "old", "id": 9}),
    "a number": (RUN_EVENTS, event(_id=9, status="pending"), {"_id": 9}),
}


@pytest.mark.parametrize(("collection", "document", "expected"), _LEGACY.values(), ids=_LEGACY)
def test_legacy_ids_are_restored_in_their_fields(
    collection: str, document: dict[str, Any], expected: dict[str, Any]
) -> None:
    mapped = map_document(collection, document)
    assert isinstance(mapped, Mapped)
    back = _require_same(collection, mapped.value)
    assert expected == {name: back[name] for name in expected}
    assert "legacy" not in str(back)


@pytest.mark.parametrize("order", ["csharp", "java", "python"])
def test_a_document_with_old_binary_ids_names_their_byte_order(order: Any) -> None:
    """The bytes do not contain the order. This includes an id with the same bytes in every order."""
    representation = getattr(UuidRepresentation, f"{order.upper()}_LEGACY")
    for uuid in (_UUID, UUID(int=0)):
        old = Binary.from_uuid(uuid, representation)
        reference = Binary.from_uuid(UUID(JOB_ID), representation)
        mapped = map_document(JOBS, overlay(_id=old, buildJobId=reference), legacy_uuids=order)
        assert isinstance(mapped, Mapped)
        back = _require_same(JOBS, mapped.value)
        assert (old, reference, order) == (back["_id"], back["buildJobId"], back["legacyUuids"])
        for parameter in ("csharp", "java", "python"):
            assert mapped.value == getattr(map_document(JOBS, back, legacy_uuids=parameter), "value", None)


def test_a_reference_of_another_byte_order_is_text() -> None:
    """A document has one byte order, so nothing is decoded with the wrong one."""
    preserved = {"legacyIdType": "uuidJava", "legacyBuildJobIdType": "uuidPython"}
    job = overlay_job(id=_UUID, build_job_id=JOB_ID, metadata=preserved)
    back = _require_same(JOBS, job)
    assert (Binary, JOB_ID, "java") == (type(back["_id"]), back["buildJobId"], back["legacyUuids"])
    assert {"legacyBuildJobIdType": "uuidPython"} == back["metadata"]


@pytest.mark.parametrize(
    "preserved",
    [
        {"legacyId": "old"},
        {"legacyId": str(_OBJECT_ID), "legacyIdType": "objectId"},
        {"legacyId": JOB_ID, "legacyIdType": "uuid"},
        {"legacyId": ID},
        {"legacyMongoId": "old", "legacyMongoIdOf": JOB_ID},
        {"legacyId": "\ud7ff" * 4_096},
    ],
)
def test_entries_of_another_job_stay_in_the_metadata(preserved: dict[str, str]) -> None:
    """A retry has the metadata of the original job, and another id."""
    for collection, job in (
        (JOBS, build_job(id=_UUID, metadata=preserved)),
        (RUNS, policy_run(id=_UUID, metadata=preserved)),
    ):
        back = _require_same(collection, job)
        assert (ID, preserved) == (back["_id"], back["metadata"])


def test_times_sort_inline_and_keep_their_precision() -> None:
    """Inline times have milliseconds. More precise ones are also text under payload."""
    job = build_job(created_at=_PRECISE, updated_at=_PRECISE + timedelta(hours=1))
    back = _through_bson(_require_same(JOBS, job))
    truncated = _TRUNCATED.replace(tzinfo=None)
    assert (truncated, "2026-01-02T03:04:05.678901Z") == (back["createdAt"], back["payload"]["createdAt"])
    assert truncated + timedelta(hours=1) == back["updatedAt"]
    assert "payload" not in to_document(build_job(created_at=_TRUNCATED))


def test_only_a_precise_event_is_completely_under_payload() -> None:
    """Any other event keeps its own payload."""
    plain = map_document(EVENTS, event())
    assert isinstance(plain, Mapped)
    back = to_document(plain.value)
    assert {**event(), "_id": 7} == back
    precise = _require_same(EVENTS, plain.value.replace(created_at=_PRECISE))
    assert (_TRUNCATED, event()["payload"]) == (precise["createdAt"], precise["payload"]["payload"])
    both = _require_same(EVENTS, plain.value.replace(payload={"jobId": 5, "payload": {"payload": {}}}))
    assert {"jobId": 5, "payload": {"payload": {}}} == both["payload"]["payload"]


@pytest.mark.parametrize("key", ["$oid", "$date", "$numberLong", "$binary", "$uuid", "$ref", "$regex", "$code"])
def test_keys_of_extended_json_become_text(key: str) -> None:
    """Otherwise `{"$oid": ...}` in a job would be read as an ObjectId, or not be read at all."""
    entries = {key: "507f1f77bcf86cd799439011", "$id": "1"}
    job = policy_run(metadata=entries, inputs={"environment": {"a": [{"b": entries}]}})
    back = _require_same(RUNS, job)
    assert (str, str) == (type(back["metadata"]), type(back["inputs"]["environment"]))
    _require_same(JOBS, build_job(metadata=entries))
    _require_same(EVENTS, _event(id=1, payload={"x": entries}))
    assert {"oid": "$"} == to_document(build_job(metadata={"oid": "$"}))["metadata"]


def test_a_document_holds_only_what_bson_has() -> None:
    """A document encodes to the same bytes twice, and its numbers have the types that an index of MongoDB expects."""
    value = _event(id=2**62)
    assert Int64 is type(to_document(value)["_id"])
    assert bson.encode(to_document(value)) == bson.encode(to_document(value))
    assert {"build", "queued"} <= {field for field in to_document(build_job()).values() if type(field) is str}


def test_an_event_that_was_never_stored_has_no_document() -> None:
    """MongoDB needs an id, and a generated one would add a new event each time."""
    with pytest.raises(InvalidJob, match="append it to its log first"):
        to_document(_event())
    preserved = {"legacyId": "507f1f77bcf86cd799439011", "legacyIdType": "objectId"}
    assert _OBJECT_ID == _require_same(EVENTS, _event(payload=preserved))["_id"]
