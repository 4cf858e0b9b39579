"""Maps legacy ids to UUIDs, and UUIDs back to `_id`. Pure functions, no I/O.

An id that is a UUID in any form stays the same UUID. Any other id becomes a UUIDv5 of its tenant and its text. An
ObjectId and its 24 digits become the same UUID, because documents refer to one by the other.

Information that the UUID does not contain is preserved in the metadata of a job or run and in the payload of an event:
`legacyId` is the text of the legacy id, and `legacyIdType` its type if it was not text. `legacyMongoId` is an `_id`
that is another id than the document's `id`, and `legacyMongoIdOf` is the UUID of that document. `legacyBuildJobId` and
`legacyJobId` are the same as `legacyId` for the job that a document refers to.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias, cast, get_args
from uuid import UUID, uuid5

from bson.binary import OLD_UUID_SUBTYPE, Binary
from bson.errors import InvalidId
from bson.objectid import ObjectId
from pydantic import TypeAdapter

from graphjobs.backfill.transform.diagnostics import FieldRejected, describe
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.backfill.transform.uuids import REPRESENTATIONS, LegacyUuids, uuid_of
from graphjobs.core.event_log import Event
from graphjobs.core.fields import NAME_LENGTH_MAX
from graphjobs.core.metadata import METADATA_VALUE_LENGTH_MAX
from graphjobs.graph_jobs.models import GraphJob, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunJob

MongoId: TypeAlias = str | ObjectId | Binary
"""The types of `_id`."""

NAMESPACE: Final = UUID("b6de6565-5627-51a1-b448-318745b7beeb")
"""Namespace of the UUIDv5 of legacy ids. It never changes: otherwise the same id would become another UUID."""

_OBJECT_ID: Final = "objectId"

_parse_uuid_text: Final[Callable[[str], UUID]] = TypeAdapter(UUID).validate_python
"""Parses the text of a UUID, five times as fast as `UUID`."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_TENANT: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{NAME_LENGTH_MAX}}}")
_LEGACY_ID: Final = re.compile(rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]{{1,{METADATA_VALUE_LENGTH_MAX}}}")


class MappedId(NamedTuple):
    """A legacy id and its UUID.

    Attributes:
        id: the UUID.
        text: the legacy id as text.
        kind: type of the legacy id if it was not text: "objectId", "uuid", "uuidPython", "uuidJava", "uuidCsharp".
        derived: the legacy id was not a UUID, so the UUID was derived from it.
    """

    id: UUID
    text: str
    kind: str | None = None
    derived: bool = False

    @property
    def code(self) -> str | None:
        """Code of the change; None if the id did not change."""
        if self.derived:
            return "made of the old one"
        if self.kind is not None:
            return f"was binary, {self.kind}"
        # The text of a UUID differs only in case, and the case is cheap to check.
        return None if self.text == self.text.lower() else "lower case"

    def preserved(self, name: str) -> dict[str, str]:
        """Return the entries that restore the legacy id; none for the canonical text of a UUID."""
        texts = {} if self.text == str(self.id) else {name: self.text}
        return texts if self.kind is None else {**texts, f"{name}Type": self.kind}


def derive_uuid(tenant_id: str, legacy_id: str) -> UUID:
    """Return the UUIDv5 of a legacy id of a tenant. A tenant holds no newline, so the joined text is unambiguous."""
    return uuid5(NAMESPACE, f"{tenant_id}\n{legacy_id}")


def parse_id(value: object, field: str, legacy_uuids: LegacyUuids) -> tuple[UUID | None, str, str | None]:
    """Parse an id in any form.

    Returns:
        The UUID, or None for another id; the text; and the type if the value was not text (see `MappedId.kind`).

    Raises:
        FieldRejected: the value is not an id.
    """
    if type(value) is str:
        if _UUID.fullmatch(value):
            return _parse_uuid_text(value), value, None
        if _LEGACY_ID.fullmatch(value):
            return None, value, None
        limits = f"1 to {METADATA_VALUE_LENGTH_MAX:,} characters without control characters"
        raise FieldRejected(field, f"must be text of {limits}, not {describe(value)}")
    if isinstance(value, ObjectId):
        return None, str(value), _OBJECT_ID
    found = uuid_of(value, legacy_uuids)
    if found is not None:
        return found[0], str(found[0]), found[1]
    raise FieldRejected(field, f"must be text, an ObjectId or a UUID, not {describe(value)}")


def map_id(value: object, field: str, tenant_id: str, legacy_uuids: LegacyUuids) -> MappedId:
    """Map an id in any form to a UUID.

    Raises:
        FieldRejected: the value is not an id, or the tenant is not a valid name.
    """
    uuid, text, kind = parse_id(value, field, legacy_uuids)
    if uuid is not None:
        return MappedId(uuid, text, kind)
    if _TENANT.fullmatch(tenant_id):
        return MappedId(derive_uuid(tenant_id, text), text, kind, derived=True)
    limits = f"1 to {NAME_LENGTH_MAX} characters of valid UTF-8 without control characters"
    raise FieldRejected("tenantId", f"must be text of {limits}, not {describe(tenant_id)}")


def find_byte_order(mongo_id: object, own_id: object, legacy_uuids: LegacyUuids) -> LegacyUuids:
    """Return the byte order in which an `_id` of subtype 3 equals the text of `id`; by default `legacy_uuids`.

    One driver writes a document, so the order holds for all its UUIDs.
    """
    if isinstance(mongo_id, Binary) and mongo_id.subtype == OLD_UUID_SUBTYPE and type(own_id) is str:
        text = own_id.lower()
        for order in (legacy_uuids, *get_args(LegacyUuids)):  # some UUIDs are equal in every order, as that of zeros
            found = uuid_of(mongo_id, order)
            if found is not None and str(found[0]) == text:
                return cast("LegacyUuids", order)
    return legacy_uuids


def map_own_id(reader: FieldReader, tenant_id: str, legacy_uuids: LegacyUuids) -> MappedId:
    """Map a document's own id, from `_id` and `id`, and preserve what the UUID does not contain.

    Other documents refer to `id`. Most documents have only one of both, or the same id in two forms.

    Raises:
        FieldRejected: both are missing, one is not an id, or they are different UUIDs.
    """
    mongo_id, own_id = reader.fields.pop("_id", None), reader.fields.pop("id", None)
    if mongo_id is None and own_id is None:
        raise FieldRejected("_id", "is missing")
    if mongo_id is None or own_id is None:
        value, field = (own_id, "id") if mongo_id is None else (mongo_id, "_id")
        mapped = map_id(value, field, tenant_id, legacy_uuids)
    else:
        mapped = _map_both_ids(reader, mongo_id, own_id, tenant_id, legacy_uuids)
    return preserve_legacy_id(reader, "id", mapped, "legacyId")


def preserve_legacy_id(reader: FieldReader, field: str, mapped: MappedId, name: str) -> MappedId:
    """Note the change of an id, and preserve the legacy id under a name. Return the id."""
    code = mapped.code
    if code is not None:
        reader.note_change(field, code)
        for entry, text in mapped.preserved(name).items():
            reader.preserve(entry, text)
    return mapped


def _map_both_ids(
    reader: FieldReader, mongo_id: object, own_id: object, tenant_id: str, legacy_uuids: LegacyUuids
) -> MappedId:
    legacy_uuids = find_byte_order(mongo_id, own_id, legacy_uuids)
    own = map_id(own_id, "id", tenant_id, legacy_uuids)
    mapped = map_id(mongo_id, "_id", tenant_id, legacy_uuids)
    if mapped.id == own.id:
        return mapped
    if not mapped.derived and not own.derived:
        raise FieldRejected("id", "is another UUID than _id, and it is unknown which one is right")
    reader.note_change("_id", "kept beside id")
    reader.preserve("legacyMongoId", mapped.text)
    reader.preserve("legacyMongoIdOf", str(own.id))  # a retry copies the metadata, and has another id
    if mapped.kind is not None:
        reader.preserve("legacyMongoIdType", mapped.kind)
    return own


def objectid_time(value: object) -> datetime | None:
    """Return the creation time that an ObjectId contains; None for any other id."""
    return value.generation_time.astimezone(UTC) if isinstance(value, ObjectId) else None


def restore_mongo_id(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Return the exact `_id` of a value in MongoDB; None if it is the text of the id, or the value was never there.

    A job may have the metadata of another job. A `legacyId` that does not map to the job's id is not its own.
    """
    if isinstance(value, Event):
        return _restore(value.payload, "legacyId", None)
    is_own = value.metadata.get("legacyMongoIdOf") == str(value.id)
    mongo_id = _restore(value.metadata, "legacyMongoId", None) if is_own else None
    return mongo_id if mongo_id is not None else restore_own_id(value)


def restore_own_id(value: GraphJob | PolicyRunJob) -> MongoId | None:
    """Return the legacy id that other documents refer to: the `id` if it differed from `_id`, otherwise the `_id`."""
    return _restore_matching(value.metadata, "legacyId", value.tenant_id, value.id)


def restore_reference(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Return the legacy id of the job that a value refers to: `jobId` of an event, `buildJobId` of an overlay job."""
    if isinstance(value, Event):
        return _restore_matching(value.payload, "legacyJobId", value.tenant_id, value.job_id)
    if isinstance(value, GraphOverlayJob) and value.build_job_id is not None:
        return _restore_matching(value.metadata, "legacyBuildJobId", value.tenant_id, value.build_job_id)
    return None


def _restore_matching(entries: Mapping[str, Any], name: str, tenant_id: str, uuid: UUID) -> MongoId | None:
    text = entries.get(name)
    if text is not None and (
        not isinstance(text, str) or uuid not in (_parse_uuid(text), derive_uuid(tenant_id, text))
    ):
        return None
    return _restore(entries, name, uuid)


def _restore(entries: Mapping[str, Any], name: str, uuid: UUID | None) -> MongoId | None:
    text, kind = entries.get(name), entries.get(f"{name}Type")
    if kind in REPRESENTATIONS:
        original = uuid if text is None else _parse_uuid(text)
        return None if original is None else Binary.from_uuid(original, REPRESENTATIONS[kind])
    if not isinstance(text, str) or not _LEGACY_ID.fullmatch(text) or kind not in (None, _OBJECT_ID):
        return None  # not written by a backfill: no `_id` has this form
    try:
        return text if kind is None else ObjectId(text)
    except InvalidId:
        return None


def _parse_uuid(text: object) -> UUID | None:
    return UUID(text) if isinstance(text, str) and _UUID.fullmatch(text) else None
