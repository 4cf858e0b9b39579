"""Which UUIDs old ids become, what is kept of them, and the way back."""

from typing import Any
from uuid import UUID, uuid5

import pytest
from bson import ObjectId
from bson.binary import Binary, UuidRepresentation
from hypothesis import given
from hypothesis import strategies as st

from graphjobs import GraphBuildJob, GraphOverlayJob
from graphjobs.backfill.transform.legacy_ids import LegacyUuids, derive_uuid, restore_mongo_id, restore_reference
from graphjobs.backfill.transform.mapping import Mapped, Rejection, map_document
from tests.backfill.documents import ABSENT, ID, JOB_ID, build, event, overlay, run

_OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
_UUID = UUID(ID)
_MADE = ("id", "made of the old one")
_ORDERS: dict[LegacyUuids, int] = {
    "python": UuidRepresentation.PYTHON_LEGACY,
    "java": UuidRepresentation.JAVA_LEGACY,
    "csharp": UuidRepresentation.CSHARP_LEGACY,
}


def _legacy(order: LegacyUuids, uuid: UUID = _UUID) -> Binary:
    return Binary.from_uuid(uuid, _ORDERS[order])


def _mapped(collection: str, document: dict[str, Any], **options: Any) -> Mapped:
    mapped = map_document(collection, document, **options)
    assert isinstance(mapped, Mapped), mapped
    return mapped


def _value(collection: str, document: dict[str, Any], **options: Any) -> Any:
    return _mapped(collection, document, **options).value


def test_the_namespace_never_changes() -> None:
    """Another one would make other ids of the same documents."""
    assert UUID("de2e656d-0cc3-5ba3-b0ef-135b952797a1") == derive_uuid("acme", "job-1")
    assert uuid5(UUID("b6de6565-5627-51a1-b448-318745b7beeb"), "acme\njob-1") == derive_uuid("acme", "job-1")


def test_an_old_id_becomes_the_same_uuid_each_time_and_another_for_each_tenant() -> None:
    """The tenant is part of what it is made of, and text meets its ObjectId."""
    text, other = (
        _value("graph_jobs", build(_id="job-1")),
        _value("graph_jobs", build(_id="job-1", tenantId="umbrella")),
    )
    assert derive_uuid("acme", "job-1") == text.id
    assert text.id != other.id
    assert _value("graph_jobs", build(_id=_OBJECT_ID)).id == _value("graph_jobs", build(_id=str(_OBJECT_ID))).id


_FORMS: dict[str, tuple[Any, UUID, dict[str, str], list[tuple[str, str]]]] = {
    "UUID text": (ID, _UUID, {}, []),
    "UUID text in upper case": (ID.upper(), _UUID, {"legacyId": ID.upper()}, [("id", "lower case")]),
    "UUID": (_UUID, _UUID, {"legacyIdType": "uuid"}, [("id", "was binary, uuid")]),
    "UUID of subtype 4": (Binary(_UUID.bytes, 4), _UUID, {"legacyIdType": "uuid"}, [("id", "was binary, uuid")]),
    "UUID of subtype 3": (
        _legacy("csharp"),
        _UUID,
        {"legacyIdType": "uuidCsharp"},
        [("id", "was binary, uuidCsharp")],
    ),
    "text": ("job-1", derive_uuid("acme", "job-1"), {"legacyId": "job-1"}, [_MADE]),
    "UUID without dashes": (_UUID.hex, derive_uuid("acme", _UUID.hex), {"legacyId": _UUID.hex}, [_MADE]),
    "ObjectId": (
        _OBJECT_ID,
        derive_uuid("acme", str(_OBJECT_ID)),
        {"legacyId": str(_OBJECT_ID), "legacyIdType": "objectId"},
        [_MADE],
    ),
}


@pytest.mark.parametrize(("old_id", "uuid", "kept", "changes"), _FORMS.values(), ids=_FORMS)
@pytest.mark.parametrize(("collection", "make"), [("graph_jobs", build), ("graph_jobs", overlay), ("policy_runs", run)])
def test_an_id_in_any_form_goes_there_and_back(
    collection: str, make: Any, old_id: Any, uuid: UUID, kept: dict[str, str], changes: list[tuple[str, str]]
) -> None:
    """What the UUID does not tell stays in the metadata, so that `_id` is again what it was, of the same type."""
    mapped = _mapped(collection, make(_id=old_id))
    value: Any = mapped.value
    assert uuid == value.id
    assert kept == dict(value.metadata)
    assert changes == list(mapped.changes)
    back = restore_mongo_id(value)
    expected = Binary(_UUID.bytes, 4) if isinstance(old_id, UUID) else old_id
    assert (type(expected), expected) == ((str, ID) if back is None else (type(back), back))


@pytest.mark.parametrize(("old_id", "uuid", "kept", "changes"), _FORMS.values(), ids=_FORMS)
def test_what_goes_back_and_comes_again_is_the_same(
    old_id: Any, uuid: UUID, kept: dict[str, str], changes: list[tuple[str, str]]
) -> None:
    """An exported document has the old `_id`, the UUID as `id`, and the metadata with what was kept."""
    first = _value("graph_jobs", build(_id=old_id))
    again = _value("graph_jobs", build(_id=restore_mongo_id(first) or ID, id=str(uuid), metadata=dict(first.metadata)))
    assert first == again
    assert first.to_json() == again.to_json()
    assert kept == dict(again.metadata)


@pytest.mark.parametrize("order", _ORDERS)
def test_the_byte_order_of_a_legacy_uuid_is_a_parameter(order: LegacyUuids) -> None:
    """The bytes do not tell it."""
    value = _value("graph_jobs", build(_id=_legacy(order)), legacy_uuids=order)
    assert _UUID == value.id
    assert _legacy(order) == restore_mongo_id(value)


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("given_order", _ORDERS)
def test_the_text_of_its_id_decides_the_byte_order(order: LegacyUuids, given_order: LegacyUuids) -> None:
    """Whatever the parameter says, and also where the text stands under payload."""
    document = build(_id=_legacy(order), payload={"id": ID.upper()})
    value = _value("graph_jobs", document, legacy_uuids=given_order)
    assert _UUID == value.id
    assert _legacy(order) == restore_mongo_id(value)


def test_an_id_beside_another_is_the_id_and_the_other_is_kept() -> None:
    """MongoDB makes an `_id` for a document that has one of its own under another name, which others refer to."""
    mapped = _mapped("graph_jobs", build(_id=_OBJECT_ID, payload={"id": ID}))
    value: Any = mapped.value
    assert _UUID == value.id
    assert {
        "legacyMongoId": str(_OBJECT_ID),
        "legacyMongoIdType": "objectId",
        "legacyMongoIdOf": ID,
    } == dict(value.metadata)
    assert [("_id", "kept beside id")] == list(mapped.changes)
    assert _OBJECT_ID == restore_mongo_id(value)
    old = _value("policy_runs", run(_id="acme:run-1", id="run-1"))
    assert derive_uuid("acme", "run-1") == old.id
    assert {
        "legacyMongoId": "acme:run-1",
        "legacyMongoIdOf": str(old.id),
        "legacyId": "run-1",
    } == dict(old.metadata)
    assert "acme:run-1" == restore_mongo_id(old)


def test_a_document_with_id_alone_is_known_by_it() -> None:
    """No `_id` is needed where another field tells."""
    assert _UUID == _value("graph_jobs", build(_id=ABSENT, id=ID)).id


def test_the_same_legacy_id_may_stand_there_already() -> None:
    """It does in whatever was exported."""
    metadata = {"legacyId": "job-1", **{str(number): "x" for number in range(63)}}
    assert metadata == dict(_value("graph_jobs", build(_id="job-1", metadata=metadata)).metadata)


def test_a_legacy_id_of_another_job_is_not_its_own() -> None:
    """A job made with another's metadata must not take that one's place in MongoDB."""
    for edits in ({"_id": _OBJECT_ID}, {"_id": "job-1"}, {"_id": _OBJECT_ID, "id": JOB_ID}):
        old = _value("graph_jobs", build(**edits))
        assert edits["_id"] == restore_mongo_id(old)
        assert restore_mongo_id(_value("graph_jobs", build(metadata=dict(old.metadata)))) is None


@pytest.mark.parametrize("metadata", [{"legacyIdType": "objectId"}, {"legacyId": "x", "legacyIdType": "objectId"}])
def test_what_somebody_else_wrote_there_is_no_old_id(metadata: dict[str, str]) -> None:
    """Nothing is made of half of it, or of text that is no ObjectId."""
    value = _value("graph_jobs", build(metadata=metadata))
    assert restore_mongo_id(value) is None
    assert restore_mongo_id(value.replace(id=derive_uuid("acme", "x"))) is None


@pytest.mark.parametrize(
    "old_id", ["job-1", JOB_ID, JOB_ID.upper(), _OBJECT_ID, _legacy("java"), Binary(_UUID.bytes, 4)]
)
def test_references_meet_the_job_and_go_back(old_id: Any) -> None:
    """An event and an overlay job name the same UUID that the job becomes, and tell the old one again."""
    job: GraphBuildJob = _value("graph_jobs", build(_id=old_id), legacy_uuids="java")
    entry = _value("graph_job_events", event(jobId=old_id), legacy_uuids="java")
    laid: GraphOverlayJob = _value("graph_jobs", overlay(buildJobId=old_id), legacy_uuids="java")
    assert job.id == entry.job_id == laid.build_job_id
    expected = None if old_id == JOB_ID else old_id
    assert expected == restore_reference(entry) == restore_reference(laid)
    assert restore_reference(job) is None
    assert restore_reference(_value("graph_jobs", overlay())) is None


@pytest.mark.parametrize("old_id", ["event-1", ID, ID.upper(), _OBJECT_ID, _legacy("csharp"), Binary(_UUID.bytes, 4)])
def test_the_old_id_of_an_event_goes_there_and_back(old_id: Any) -> None:
    """Our ids of events are numbers of the database, so that the old one is always kept."""
    value = _value("graph_job_events", event(_id=old_id))
    assert value.id is None
    assert old_id == restore_mongo_id(value)
    assert type(old_id) is type(restore_mongo_id(value))
    exported = event(_id=old_id, id=17, payload=dict(value.payload))
    assert value.replace(id=17) == _value("graph_job_events", exported)
    assert restore_mongo_id(_value("graph_job_events", event())) is None


@given(st.text(min_size=1, max_size=300), st.sampled_from(["acme", "a\u00e9\U0001f600"]))
def test_any_text_goes_there_and_back_or_is_refused(old_id: str, tenant: str) -> None:
    """Whatever people named their jobs."""
    mapped = map_document("graph_jobs", build(_id=old_id, tenantId=tenant))
    if isinstance(mapped, Rejection):
        assert "_id" == mapped.field
    else:
        assert old_id == (restore_mongo_id(mapped.value) or str(mapped.value.id))
