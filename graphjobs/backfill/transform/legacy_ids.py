"""Which UUID an old id becomes, what of it is kept, and the way back to `_id`; pure functions, no I/O.

An id that is a UUID, whatever form it has, stays that UUID. Any other becomes a UUIDv5 of its tenant and its text:
an ObjectId and its 24 digits become the same, for documents refer to one by the other.

What the UUID alone does not tell is kept, in the metadata of a job or run and in the payload of an event:
`legacyId` is the old text, `legacyIdType` what it was if no text. `legacyMongoId` is an `_id` that is not the
document's `id` in any form, and `legacyMongoIdOf` is whose. `legacyBuildJobId` and `legacyJobId` are as `legacyId`,
of the job that a document refers to.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args
from uuid import UUID, uuid5

from bson.binary import OLD_UUID_SUBTYPE, UUID_SUBTYPE, Binary, UuidRepresentation
from bson.errors import InvalidId
from bson.objectid import ObjectId
from pydantic import TypeAdapter

from graphjobs.backfill.transform.coercion import UUID_BYTES
from graphjobs.backfill.transform.diagnostics import FieldRejected, describe
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.core.event_log import Event
from graphjobs.core.fields import METADATA_VALUE_LENGTH_MAX, NAME_LENGTH_MAX
from graphjobs.graph_jobs.models import GraphJob, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunJob

LegacyUuids: TypeAlias = Literal["python", "java", "csharp"]
"""The order of the bytes in UUIDs of BSON's old subtype 3, which they do not tell: it is that of the driver's."""
MongoId: TypeAlias = str | ObjectId | Binary
"""What `_id` may be."""

NAMESPACE: Final = UUID("b6de6565-5627-51a1-b448-318745b7beeb")
"""Of the UUIDv5 that old ids become. It never changes: the same id would become another."""

_REPRESENTATIONS: Final = {
    "uuid": UuidRepresentation.STANDARD,
    "uuidPython": UuidRepresentation.PYTHON_LEGACY,
    "uuidJava": UuidRepresentation.JAVA_LEGACY,
    "uuidCsharp": UuidRepresentation.CSHARP_LEGACY,
}
_OBJECT_ID: Final = "objectId"

_parse_uuid_text: Final[Callable[[str], UUID]] = TypeAdapter(UUID).validate_python
"""Reads the text of a UUID, five times as fast as `UUID` itself."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_TENANT: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{NAME_LENGTH_MAX}}}")
_LEGACY_ID: Final = re.compile(rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]{{1,{METADATA_VALUE_LENGTH_MAX}}}")


class MappedId(NamedTuple):
    """An id of MongoDB's and the UUID it is here.

    Attributes:
        id: the UUID.
        text: the old id as text, also where it is the UUID's own.
        kind: what the old one was, if no text: "objectId", "uuid", "uuidPython", "uuidJava", "uuidCsharp".
        made: whether the UUID was made, for the old id was none.
    """

    id: UUID
    text: str
    kind: str | None = None
    derived: bool = False

    @property
    def code(self) -> str | None:
        """What is told of it; None where it comes as it was."""
        if self.derived:
            return "made of the old one"
        if self.kind is not None:
            return f"was binary, {self.kind}"
        # Text that is a UUID is its own text but for the case, which is cheaper to look at.
        return None if self.text == self.text.lower() else "lower case"

    def preserved(self, name: str) -> dict[str, str]:
        """What must be kept for the way back, by its name; nothing for the plain text of a UUID."""
        texts = {} if self.text == str(self.id) else {name: self.text}
        return texts if self.kind is None else {**texts, f"{name}Type": self.kind}


def derive_uuid(tenant_id: str, legacy_id: str) -> UUID:
    """Gives the UUID that an old id of a tenant becomes. A tenant holds no newline, so that no two names meet."""
    return uuid5(NAMESPACE, f"{tenant_id}\n{legacy_id}")


def parse_id(value: object, field: str, legacy_uuids: LegacyUuids) -> tuple[UUID | None, str, str | None]:
    """Reads an id in any form: the UUID, if it is one, its text, and what it was, if no text.

    Raises:
        Refusal: it is no id.
    """
    if type(value) is str:
        if _UUID.fullmatch(value):
            return _parse_uuid_text(value), value, None
        if _LEGACY_ID.fullmatch(value):
            return None, value, None
        raise FieldRejected(field, f"an id should be text without control characters, not {describe(value)}")
    if isinstance(value, ObjectId):
        return None, str(value), _OBJECT_ID
    if isinstance(value, UUID):
        return value, str(value), "uuid"
    if isinstance(value, Binary) and len(value) == UUID_BYTES and value.subtype in (UUID_SUBTYPE, OLD_UUID_SUBTYPE):
        kind = "uuid" if value.subtype == UUID_SUBTYPE else f"uuid{legacy_uuids.capitalize()}"
        read = value.as_uuid(_REPRESENTATIONS[kind])
        return read, str(read), kind
    raise FieldRejected(field, f"an id should be text, an ObjectId or a UUID, not {describe(value)}")


def map_id(value: object, field: str, tenant_id: str, legacy_uuids: LegacyUuids) -> MappedId:
    """Reads an id in any form, and makes a UUID of one that is none.

    Raises:
        Refusal: it is no id, or the tenant is no name.
    """
    uuid, text, kind = parse_id(value, field, legacy_uuids)
    if uuid is not None:
        return MappedId(uuid, text, kind)
    if _TENANT.fullmatch(tenant_id):
        return MappedId(derive_uuid(tenant_id, text), text, kind, derived=True)
    problem = f"it should be text of 1 to {NAME_LENGTH_MAX} characters, UTF-8 clean, without control characters"
    raise FieldRejected("tenantId", f"{problem}, not {describe(tenant_id)}")


def map_own_id(document: FieldReader, tenant_id: str, legacy_uuids: LegacyUuids) -> MappedId:
    """Reads a document's own id, of `_id` and of `id`, and keeps what the UUID does not tell.

    `id` is what other documents refer to; most have one of them, or one in two forms.

    Raises:
        Refusal: there is none, one cannot be read, or they are two UUIDs.
    """
    own, named = document.fields.pop("_id", None), document.fields.pop("id", None)
    if own is None and named is None:
        raise FieldRejected("_id", "a document should have one")
    if own is None or named is None:
        value, field = (named, "id") if own is None else (own, "_id")
        identity = map_id(value, field, tenant_id, legacy_uuids)
    else:
        identity = _map_both_ids(document, own, named, tenant_id, legacy_uuids)
    code = identity.code
    if code is not None:
        document.note_change("id", code)
        for name, text in identity.preserved("legacyId").items():
            document.preserve(name, text)
    return identity


def _map_both_ids(
    document: FieldReader, own: object, named: object, tenant_id: str, legacy_uuids: LegacyUuids
) -> MappedId:
    theirs = map_id(named, "id", tenant_id, legacy_uuids)
    if isinstance(own, Binary) and own.subtype == OLD_UUID_SUBTYPE and type(named) is str:
        for order in (legacy_uuids, *get_args(LegacyUuids)):  # a UUID like that of zeros is the same in each
            mine = map_id(own, "_id", tenant_id, order)
            if mine.id == theirs.id:
                return mine
    mine = map_id(own, "_id", tenant_id, legacy_uuids)
    if mine.id == theirs.id:
        return mine
    if not mine.derived and not theirs.derived:
        raise FieldRejected("id", "it is another UUID than _id, and nobody knows which one is meant")
    document.note_change("_id", "kept beside id")
    document.preserve("legacyMongoId", mine.text)
    document.preserve("legacyMongoIdOf", str(theirs.id))  # a retry takes the metadata over, and is another
    if mine.kind is not None:
        document.preserve("legacyMongoIdType", mine.kind)
    return theirs


def objectid_time(value: object) -> datetime | None:
    """Gives when an ObjectId was made, which it tells; None for any other id."""
    return value.generation_time.astimezone(UTC) if isinstance(value, ObjectId) else None


def restore_mongo_id(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Gives the `_id` a value had in MongoDB, exactly; None where that is its id's own text, or it was never there.

    A job may have been made with another's metadata: a `legacyId` that the id was not made of is not its own.
    """
    if isinstance(value, Event):
        return _restore(value.payload, "legacyId", None)
    own = value.metadata.get("legacyMongoIdOf") == str(value.id)
    beside = _restore(value.metadata, "legacyMongoId", None) if own else None
    return beside if beside is not None else restore_named_id(value)


def restore_named_id(value: GraphJob | PolicyRunJob) -> MongoId | None:
    """Gives the id that it was referred to by: its `id`, where that was another than its `_id`, and else both."""
    return _restore_matching(value.metadata, "legacyId", value.tenant_id, value.id)


def restore_reference(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Gives the id by which it referred to a job, an event by `jobId`, an overlay job by `buildJobId`, as above."""
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
    if kind in _REPRESENTATIONS:
        read = uuid if text is None else _parse_uuid(text)
        return None if read is None else Binary.from_uuid(read, _REPRESENTATIONS[kind])
    if not isinstance(text, str) or not _LEGACY_ID.fullmatch(text) or kind not in (None, _OBJECT_ID):
        return None  # somebody's own word: no `_id` was like that
    try:
        return text if kind is None else ObjectId(text)
    except InvalidId:
        return None


def _parse_uuid(text: object) -> UUID | None:
    return UUID(text) if isinstance(text, str) and _UUID.fullmatch(text) else None
