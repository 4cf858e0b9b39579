"""The mapping of legacy ids to UUIDs and back."""

from typing import Any
from uuid import UUID, uuid5

import pytest
from bson import ObjectId
from bson.binary import Binary, UuidRepresentation
from hypothesis import given
from hypothesis import strategies as st

from graphjobs import GraphBuildJob, GraphOverlayJob
from graphjobs.backfill.transform.legacy_ids import derive_uuid, restore_mongo_id, restore_reference
from graphjobs.backfill.transform.mapping import Mapped, Rejection, map_document
from graphjobs.backfill.transform.uuids import LegacyUuids
from tests.backfill.documents import ABSENT, ID, JOB_ID, build, event, overlay, run

_OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
_UUID = UUID(ID)
_DERIVED = ("id", "made of the old one")
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
    """Another namespace would map the same documents to other ids."""
    assert UUID("de2e656d-0cc3-5ba3-b0ef-135b952797a1") == derive_uuid("acme", "job-1")
    assert uuid5(UUID("b6de6565-5627-51a1-b448-318745b7beeb"), "acme\njob-1") == derive_uuid("acme", "job-1")


def test_a_legacy_id_maps_to_one_uuid_per_tenant() -> None:
    """The UUID depends on the tenant, and is the same for an ObjectId and its text."""
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
    "UUID of subtype 3": (_legacy("csharp"), _UUID, {"legacyIdType": "uuidCsharp"}, [("id", "was binary, uuidCsharp")]),
    "text": ("job-1", derive_uuid("acme", "job-1"), {"legacyId": "job-1"}, [_DERIVED]),
    "UUID without dashes": (_UUID.hex, derive_uuid("acme", _UUID.hex), {"legacyId": _UUID.hex}, [_DERIVED]),
    "ObjectId": (
        _OBJECT_ID,
        derive_uuid("acme", str(_OBJECT_ID)),
        {"legacyId": str(_OBJECT_ID), "legacyIdType": "objectId"},
        [_DERIVED],
    ),
}


@pytest.mark.parametrize(("legacy_id", "uuid", "preserved", "changes"), _FORMS.values(), ids=_FORMS)
@pytest.mark.parametrize(("collection", "make"), [("graph_jobs", build), ("graph_jobs", overlay), ("policy_runs", run)])
def test_an_id_in_any_form_is_mapped_and_restored(
    collection: str, make: Any, legacy_id: Any, uuid: UUID, preserved: dict[str, str], changes: list[tuple[str, str]]
) -> None:
    """The metadata preserves what the UUID does not contain, so `_id` is restored with its type."""
    mapped = _mapped(collection, make(_id=legacy_id))
    value: Any = mapped.value
    assert uuid == value.id
    assert preserved == dict(value.metadata)
    assert changes == list(mapped.changes)
    restored = restore_mongo_id(value)
    expected = Binary(_UUID.bytes, 4) if isinstance(legacy_id, UUID) else legacy_id
    assert (type(expected), expected) == ((str, ID) if restored is None else (type(restored), restored))


@pytest.mark.parametrize(("legacy_id", "uuid", "preserved", "changes"), _FORMS.values(), ids=_FORMS)
def test_an_exported_document_maps_to_the_same_value(
    legacy_id: Any, uuid: UUID, preserved: dict[str, str], changes: list[tuple[str, str]]
) -> None:
    """An exported document has the legacy `_id`, the UUID as `id`, and the preserved metadata."""
    first = _value("graph_jobs", build(_id=legacy_id))
    again = _value("graph_jobs", build(_id=restore_mongo_id(first) or ID, id=str(uuid), metadata=dict(first.metadata)))
    assert first == again
    assert first.to_json() == again.to_json()
    assert preserved == dict(again.metadata)


@pytest.mark.parametrize("order", _ORDERS)
def test_the_byte_order_of_a_legacy_uuid_is_a_parameter(order: LegacyUuids) -> None:
    """The bytes do not contain it."""
    value = _value("graph_jobs", build(_id=_legacy(order)), legacy_uuids=order)
    assert _UUID == value.id
    assert _legacy(order) == restore_mongo_id(value)


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("parameter", _ORDERS)
def test_the_text_of_an_id_decides_the_byte_order(order: LegacyUuids, parameter: LegacyUuids) -> None:
    """The text decides against the parameter, also if it is under payload."""
    document = build(_id=_legacy(order), payload={"id": ID.upper()})
    value = _value("graph_jobs", document, legacy_uuids=parameter)
    assert _UUID == value.id
    assert _legacy(order) == restore_mongo_id(value)


def test_a_second_id_is_preserved_beside_the_id() -> None:
    """Other documents refer to `id`. MongoDB generated the `_id` of such a document."""
    mapped = _mapped("graph_jobs", build(_id=_OBJECT_ID, payload={"id": ID}))
    value: Any = mapped.value
    assert _UUID == value.id
    assert {"legacyMongoId": str(_OBJECT_ID), "legacyMongoIdType": "objectId", "legacyMongoIdOf": ID} == dict(
        value.metadata
    )
    assert [("_id", "kept beside id")] == list(mapped.changes)
    assert _OBJECT_ID == restore_mongo_id(value)
    original = _value("policy_runs", run(_id="acme:run-1", id="run-1"))
    assert derive_uuid("acme", "run-1") == original.id
    assert {"legacyMongoId": "acme:run-1", "legacyMongoIdOf": str(original.id), "legacyId": "run-1"} == dict(
        original.metadata
    )
    assert "acme:run-1" == restore_mongo_id(original)


def test_a_document_with_id_needs_no_mongo_id() -> None:
    """The `id` alone is sufficient."""
    assert _UUID == _value("graph_jobs", build(_id=ABSENT, id=ID)).id


def test_the_metadata_may_hold_the_same_legacy_id_already() -> None:
    """Exported documents hold it."""
    metadata = {"legacyId": "job-1", **{str(number): "x" for number in range(63)}}
    assert metadata == dict(_value("graph_jobs", build(_id="job-1", metadata=metadata)).metadata)


def test_the_legacy_id_of_another_job_is_not_restored() -> None:
    """A job with the metadata of another job must not overwrite that job in MongoDB."""
    for edits in ({"_id": _OBJECT_ID}, {"_id": "job-1"}, {"_id": _OBJECT_ID, "id": JOB_ID}):
        original = _value("graph_jobs", build(**edits))
        assert edits["_id"] == restore_mongo_id(original)
        assert restore_mongo_id(_value("graph_jobs", build(metadata=dict(original.metadata)))) is None


@pytest.mark.parametrize("metadata", [{"legacyIdType": "objectId"}, {"legacyId": "x", "legacyIdType": "objectId"}])
def test_metadata_of_callers_is_not_a_legacy_id(metadata: dict[str, str]) -> None:
    """An incomplete legacy id, or text that is not an ObjectId, is not restored."""
    value = _value("graph_jobs", build(metadata=metadata))
    assert restore_mongo_id(value) is None
    assert restore_mongo_id(value.replace(id=derive_uuid("acme", "x"))) is None


@pytest.mark.parametrize(
    "legacy_id", ["job-1", JOB_ID, JOB_ID.upper(), _OBJECT_ID, _legacy("java"), Binary(_UUID.bytes, 4)]
)
def test_references_map_to_the_uuid_of_the_job(legacy_id: Any) -> None:
    """An event and an overlay job refer to the UUID of the job, and the legacy id is restored."""
    job: GraphBuildJob = _value("graph_jobs", build(_id=legacy_id), legacy_uuids="java")
    entry = _value("graph_job_events", event(jobId=legacy_id), legacy_uuids="java")
    overlaid: GraphOverlayJob = _value("graph_jobs", overlay(buildJobId=legacy_id), legacy_uuids="java")
    assert job.id == entry.job_id == overlaid.build_job_id
    expected = None if legacy_id == JOB_ID else legacy_id
    assert expected == restore_reference(entry) == restore_reference(overlaid)
    assert restore_reference(job) is None
    assert restore_reference(_value("graph_jobs", overlay())) is None


@pytest.mark.parametrize(
    "legacy_id", ["event-1", ID, ID.upper(), _OBJECT_ID, _legacy("csharp"), Binary(_UUID.bytes, 4)]
)
def test_the_legacy_id_of_an_event_is_restored(legacy_id: Any) -> None:
    """The database numbers events, so the legacy id is always preserved."""
    value = _value("graph_job_events", event(_id=legacy_id))
    assert value.id is None
    assert legacy_id == restore_mongo_id(value)
    assert type(legacy_id) is type(restore_mongo_id(value))
    exported = event(_id=legacy_id, id=17, payload=dict(value.payload))
    assert value.replace(id=17) == _value("graph_job_events", exported)
    assert restore_mongo_id(_value("graph_job_events", event())) is None


@given(st.text(min_size=1, max_size=300), st.sampled_from(["acme", "a\u00e9\U0001f600"]))
def test_any_text_is_restored_or_rejected(legacy_id: str, tenant: str) -> None:
    """The id of a job may be any text."""
    mapped = map_document("graph_jobs", build(_id=legacy_id, tenantId=tenant))
    if isinstance(mapped, Rejection):
        assert "_id" == mapped.field
    else:
        assert legacy_id == (restore_mongo_id(mapped.value) or str(mapped.value.id))
