"""The way back: whatever a table can hold is a document that is mapped to the same value, and `_id` is what it was."""

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
_FINE = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
_CUT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
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


def _require_back(collection: str, value: MappedValue) -> dict[str, Any]:
    """Sees to it that a value comes back whichever way its document went, and gives the document."""
    document = to_document(value)
    for read in (document, _through_bson(document), _through_json(document)):
        mapped = map_document(collection, read)
        assert isinstance(mapped, Mapped), mapped
        assert value == mapped.value
        assert _exactly(value) == _exactly(mapped.value)
        assert getattr(value, "updated_at", None) == getattr(mapped.value, "updated_at", None)
    return document


def _exactly(value: MappedValue) -> str:
    """Gives text that also tells 1 from 1.0 and true, which Python takes for equal; JSONB orders its keys itself."""
    return json.dumps(json.loads(value.to_json()), sort_keys=True)


@_MANY
@given(graph_jobs())
def test_any_graph_job_comes_back(job: Any) -> None:
    """Of any text and time, with metadata that is full, or tells of other jobs' ids."""
    _require_back(JOBS, job)


@_MANY
@given(policy_runs())
def test_any_policy_run_comes_back(job: Any) -> None:
    """In each status, with any JSON as its environment."""
    _require_back(RUNS, job)


@_MANY
@given(st.data())
@pytest.mark.parametrize(("collection", "kind"), [(EVENTS, GraphJobEvent), (RUN_EVENTS, PolicyRunEvent)])
def test_any_event_comes_back(collection: str, kind: Any, data: st.DataObject) -> None:
    """With its number, and any JSON as its payload."""
    value = data.draw(events(kind))
    document = _require_back(collection, value)
    assert Int64(value.id or 0) in (document["_id"], document.get("id"))


@pytest.mark.parametrize("order", ["csharp", "java", "python"])
@pytest.mark.parametrize("form", ["bson", "json"])
def test_old_documents_get_their_old_ids_back(order: Any, form: str) -> None:
    """Those of a realistic dump, of the same type and value; and the ids by which they refer to one another."""
    maker = DumpGenerator(11, dirty=0, legacy_uuids=order)
    through = _through_bson if form == "bson" else _through_json
    made: list[GeneratedDocument] = [*maker.jobs(300), *maker.runs(200), *maker.events(300)]
    kinds = set()
    for each in made:
        if each.outcome is Outcome.REJECTED:
            continue
        first = map_document(each.collection, each.document, legacy_uuids=order)
        assert isinstance(first, Mapped), first
        value = first.value.replace(id=7) if isinstance(first.value, GraphJobEvent) else first.value
        back = through(to_document(value))
        _require_same_id(each.document["_id"], back["_id"])
        kinds.add((each.collection, type(back["_id"])))
        if each.collection == dumps.EVENTS:
            _require_same_id(each.document["jobId"], back["jobId"])
        again = map_document(each.collection, back)
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
def test_old_ids_stand_where_they_stood(collection: str, document: dict[str, Any], expected: dict[str, Any]) -> None:
    """Also those of two forms, and of what is referred to; what the mapping keeps of them stands nowhere else."""
    mapped = map_document(collection, document)
    assert isinstance(mapped, Mapped)
    back = _require_back(collection, mapped.value)
    assert expected == {name: back[name] for name in expected}
    assert "legacy" not in str(back)


@pytest.mark.parametrize("order", ["csharp", "java", "python"])
def test_old_binary_ids_say_whose_they_are(order: Any) -> None:
    """They do not tell the order of their bytes, so the document does; also of an id that is the same in each."""
    representation = getattr(UuidRepresentation, f"{order.upper()}_LEGACY")
    for uuid in (_UUID, UUID(int=0)):
        old = Binary.from_uuid(uuid, representation)
        reference = Binary.from_uuid(UUID(JOB_ID), representation)
        mapped = map_document(JOBS, overlay(_id=old, buildJobId=reference), legacy_uuids=order)
        assert isinstance(mapped, Mapped)
        back = _require_back(JOBS, mapped.value)
        assert (old, reference, order) == (back["_id"], back["buildJobId"], back["legacyUuids"])
        for told in ("csharp", "java", "python"):
            assert mapped.value == getattr(map_document(JOBS, back, legacy_uuids=told), "value", None)


def test_ids_of_two_byte_orders_are_told_apart() -> None:
    """A document has one order, so a reference of another one stands as text, and nothing is read wrongly."""
    kept = {"legacyIdType": "uuidJava", "legacyBuildJobIdType": "uuidPython"}
    job = overlay_job(id=_UUID, build_job_id=JOB_ID, metadata=kept)
    back = _require_back(JOBS, job)
    assert (Binary, JOB_ID, "java") == (type(back["_id"]), back["buildJobId"], back["legacyUuids"])
    assert {"legacyBuildJobIdType": "uuidPython"} == back["metadata"]


@pytest.mark.parametrize(
    "kept",
    [
        {"legacyId": "old"},
        {"legacyId": str(_OBJECT_ID), "legacyIdType": "objectId"},
        {"legacyId": JOB_ID, "legacyIdType": "uuid"},
        {"legacyId": ID},
        {"legacyMongoId": "old", "legacyMongoIdOf": JOB_ID},
        {"legacyId": "\ud7ff" * 4_096},
    ],
)
def test_what_is_kept_of_another_job_stays_where_it_is(kept: dict[str, str]) -> None:
    """A retry takes over the metadata of what it retries: it has another id."""
    for collection, job in ((JOBS, build_job(id=_UUID, metadata=kept)), (RUNS, policy_run(id=_UUID, metadata=kept))):
        back = _require_back(collection, job)
        assert (ID, kept) == (back["_id"], back["metadata"])


def test_times_sort_inline_and_lose_nothing() -> None:
    """Inline as MongoDB keeps times, and where that is less, as text under payload."""
    job = build_job(created_at=_FINE, updated_at=_FINE + timedelta(hours=1))
    back = _through_bson(_require_back(JOBS, job))
    cut = _CUT.replace(tzinfo=None)
    assert (cut, "2026-01-02T03:04:05.678901Z") == (back["createdAt"], back["payload"]["createdAt"])
    assert cut + timedelta(hours=1) == back["updatedAt"]
    assert "payload" not in to_document(build_job(created_at=_CUT))


def test_an_event_stands_as_a_whole_only_where_it_must() -> None:
    """Else its payload is what it was before."""
    plain = map_document(EVENTS, event())
    assert isinstance(plain, Mapped)
    back = to_document(plain.value)
    assert {**event(), "_id": 7} == back
    fine = _require_back(EVENTS, plain.value.replace(created_at=_FINE))
    assert (_CUT, event()["payload"]) == (fine["createdAt"], fine["payload"]["payload"])
    both = _require_back(EVENTS, plain.value.replace(payload={"jobId": 5, "payload": {"payload": {}}}))
    assert {"jobId": 5, "payload": {"payload": {}}} == both["payload"]["payload"]


@pytest.mark.parametrize("key", ["$oid", "$date", "$numberLong", "$binary", "$uuid", "$ref", "$regex", "$code"])
def test_what_extended_json_takes_for_its_own_stands_as_text(key: str) -> None:
    """Else a job's own `{"$oid": ...}` would come back as an ObjectId, or not be read at all."""
    entries = {key: "507f1f77bcf86cd799439011", "$id": "1"}
    job = policy_run(metadata=entries, inputs={"environment": {"a": [{"b": entries}]}})
    back = _require_back(RUNS, job)
    assert (str, str) == (type(back["metadata"]), type(back["inputs"]["environment"]))
    _require_back(JOBS, build_job(metadata=entries))
    _require_back(EVENTS, _event(id=1, payload={"x": entries}))
    assert {"oid": "$"} == to_document(build_job(metadata={"oid": "$"}))["metadata"]


def test_a_document_holds_only_what_bson_has() -> None:
    """Each encodes to the same bytes twice, and the kinds of numbers are those that an index of MongoDB expects."""
    value = _event(id=2**62)
    assert Int64 is type(to_document(value)["_id"])
    assert bson.encode(to_document(value)) == bson.encode(to_document(value))
    assert {"build", "queued"} <= {each for each in to_document(build_job()).values() if type(each) is str}


def test_an_event_that_was_never_stored_has_no_document() -> None:
    """MongoDB needs an id, and to make one up would be to add an event each time."""
    with pytest.raises(InvalidJob, match="append it to its log first"):
        to_document(_event())
    kept = {"legacyId": "507f1f77bcf86cd799439011", "legacyIdType": "objectId"}
    assert _OBJECT_ID == _require_back(EVENTS, _event(payload=kept))["_id"]
