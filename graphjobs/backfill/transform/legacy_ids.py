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
from graphjobs.backfill.transform.diagnostics import Refusal, found
from graphjobs.backfill.transform.field_reader import Document
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

_uuid_of: Final[Callable[[str], UUID]] = TypeAdapter(UUID).validate_python
"""Reads the text of a UUID, five times as fast as `UUID` itself."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_TENANT: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{NAME_LENGTH_MAX}}}")
_OLD: Final = re.compile(rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]{{1,{METADATA_VALUE_LENGTH_MAX}}}")


class Identity(NamedTuple):
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
    made: bool = False

    @property
    def code(self) -> str | None:
        """What is told of it; None where it comes as it was."""
        if self.made:
            return "made of the old one"
        if self.kind is not None:
            return f"was binary, {self.kind}"
        # Text that is a UUID is its own text but for the case, which is cheaper to look at.
        return None if self.text == self.text.lower() else "lower case"

    def kept(self, name: str) -> dict[str, str]:
        """What must be kept for the way back, by its name; nothing for the plain text of a UUID."""
        texts = {} if self.text == str(self.id) else {name: self.text}
        return texts if self.kind is None else {**texts, f"{name}Type": self.kind}


def old_id_uuid(tenant_id: str, old_id: str) -> UUID:
    """Gives the UUID that an old id of a tenant becomes. A tenant holds no newline, so that no two names meet."""
    return uuid5(NAMESPACE, f"{tenant_id}\n{old_id}")


def form_of(value: object, field: str, legacy_uuids: LegacyUuids) -> tuple[UUID | None, str, str | None]:
    """Reads an id in any form: the UUID, if it is one, its text, and what it was, if no text.

    Raises:
        Refusal: it is no id.
    """
    if type(value) is str:
        if _UUID.fullmatch(value):
            return _uuid_of(value), value, None
        if _OLD.fullmatch(value):
            return None, value, None
        raise Refusal(field, f"an id should be text without control characters, not {found(value)}")
    if isinstance(value, ObjectId):
        return None, str(value), _OBJECT_ID
    if isinstance(value, UUID):
        return value, str(value), "uuid"
    if isinstance(value, Binary) and len(value) == UUID_BYTES and value.subtype in (UUID_SUBTYPE, OLD_UUID_SUBTYPE):
        kind = "uuid" if value.subtype == UUID_SUBTYPE else f"uuid{legacy_uuids.capitalize()}"
        read = value.as_uuid(_REPRESENTATIONS[kind])
        return read, str(read), kind
    raise Refusal(field, f"an id should be text, an ObjectId or a UUID, not {found(value)}")


def identity_of(value: object, field: str, tenant_id: str, legacy_uuids: LegacyUuids) -> Identity:
    """Reads an id in any form, and makes a UUID of one that is none.

    Raises:
        Refusal: it is no id, or the tenant is no name.
    """
    uuid, text, kind = form_of(value, field, legacy_uuids)
    if uuid is not None:
        return Identity(uuid, text, kind)
    if _TENANT.fullmatch(tenant_id):
        return Identity(old_id_uuid(tenant_id, text), text, kind, made=True)
    problem = f"it should be text of 1 to {NAME_LENGTH_MAX} characters, UTF-8 clean, without control characters"
    raise Refusal("tenantId", f"{problem}, not {found(tenant_id)}")


def identify(document: Document, tenant_id: str, legacy_uuids: LegacyUuids) -> Identity:
    """Reads a document's own id, of `_id` and of `id`, and keeps what the UUID does not tell.

    `id` is what other documents refer to; most have one of them, or one in two forms.

    Raises:
        Refusal: there is none, one cannot be read, or they are two UUIDs.
    """
    own, named = document.fields.pop("_id", None), document.fields.pop("id", None)
    if own is None and named is None:
        raise Refusal("_id", "a document should have one")
    if own is None or named is None:
        value, field = (named, "id") if own is None else (own, "_id")
        identity = identity_of(value, field, tenant_id, legacy_uuids)
    else:
        identity = _one_of(document, own, named, tenant_id, legacy_uuids)
    code = identity.code
    if code is not None:
        document.tell("id", code)
        for name, text in identity.kept("legacyId").items():
            document.keep(name, text)
    return identity


def _one_of(document: Document, own: object, named: object, tenant_id: str, legacy_uuids: LegacyUuids) -> Identity:
    theirs = identity_of(named, "id", tenant_id, legacy_uuids)
    if isinstance(own, Binary) and own.subtype == OLD_UUID_SUBTYPE and type(named) is str:
        for order in (legacy_uuids, *get_args(LegacyUuids)):  # a UUID like that of zeros is the same in each
            mine = identity_of(own, "_id", tenant_id, order)
            if mine.id == theirs.id:
                return mine
    mine = identity_of(own, "_id", tenant_id, legacy_uuids)
    if mine.id == theirs.id:
        return mine
    if not mine.made and not theirs.made:
        raise Refusal("id", "it is another UUID than _id, and nobody knows which one is meant")
    document.tell("_id", "kept beside id")
    document.keep("legacyMongoId", mine.text)
    document.keep("legacyMongoIdOf", str(theirs.id))  # a retry takes the metadata over, and is another
    if mine.kind is not None:
        document.keep("legacyMongoIdType", mine.kind)
    return theirs


def created_by(value: object) -> datetime | None:
    """Gives when an ObjectId was made, which it tells; None for any other id."""
    return value.generation_time.astimezone(UTC) if isinstance(value, ObjectId) else None


def legacy_id_of(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Gives the `_id` a value had in MongoDB, exactly; None where that is its id's own text, or it was never there.

    A job may have been made with another's metadata: a `legacyId` that the id was not made of is not its own.
    """
    if isinstance(value, Event):
        return _restored(value.payload, "legacyId", None)
    own = value.metadata.get("legacyMongoIdOf") == str(value.id)
    beside = _restored(value.metadata, "legacyMongoId", None) if own else None
    return beside if beside is not None else legacy_named_id_of(value)


def legacy_named_id_of(value: GraphJob | PolicyRunJob) -> MongoId | None:
    """Gives the id that it was referred to by: its `id`, where that was another than its `_id`, and else both."""
    return _own(value.metadata, "legacyId", value.tenant_id, value.id)


def legacy_reference_of(value: GraphJob | PolicyRunJob | Event) -> MongoId | None:
    """Gives the id by which it referred to a job, an event by `jobId`, an overlay job by `buildJobId`, as above."""
    if isinstance(value, Event):
        return _own(value.payload, "legacyJobId", value.tenant_id, value.job_id)
    if isinstance(value, GraphOverlayJob) and value.build_job_id is not None:
        return _own(value.metadata, "legacyBuildJobId", value.tenant_id, value.build_job_id)
    return None


def _own(kept: Mapping[str, Any], name: str, tenant_id: str, uuid: UUID) -> MongoId | None:
    text = kept.get(name)
    if text is not None and (
        not isinstance(text, str) or uuid not in (_uuid_or_none(text), old_id_uuid(tenant_id, text))
    ):
        return None
    return _restored(kept, name, uuid)


def _restored(kept: Mapping[str, Any], name: str, uuid: UUID | None) -> MongoId | None:
    text, kind = kept.get(name), kept.get(f"{name}Type")
    if kind in _REPRESENTATIONS:
        read = uuid if text is None else _uuid_or_none(text)
        return None if read is None else Binary.from_uuid(read, _REPRESENTATIONS[kind])
    if not isinstance(text, str) or not _OLD.fullmatch(text) or kind not in (None, _OBJECT_ID):
        return None  # somebody's own word: no `_id` was like that
    try:
        return text if kind is None else ObjectId(text)
    except InvalidId:
        return None


def _uuid_or_none(text: object) -> UUID | None:
    return UUID(text) if isinstance(text, str) and _UUID.fullmatch(text) else None
