"""Rejected documents as quarantine entries: complete, with a reason, and as lines that can be edited and read again.

The id of an entry is a hash of its content: the same document is always the same entry. A line of the quarantine files
names its entry in a tag, and its import resolves that entry. A document of a later source with the same tenant and
`_id` resolves it, too. If the document is rejected again, the new entry supersedes the old one. No I/O.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import bson
from bson import json_util
from bson.binary import Binary
from bson.errors import BSONError
from bson.objectid import ObjectId

from graphjobs.backfill.extract.decoding import nests_deeper, parse_extended_json
from graphjobs.backfill.extract.records import SourceRecord
from graphjobs.backfill.extract.streams import BSON_SIZE_MAX
from graphjobs.core.json_values import DECODED_DEPTH_MAX
from graphjobs.core.json_values import nests_deeper as json_nests_deeper
from graphjobs.core.sanitizing import sanitize_error

TAG: Final = "_quarantine"
"""The field of a line that names its entry."""

_NAMESPACE: Final = UUID("5f3f9a5e-6f0e-5b5c-9d3c-2f6a4c1c8e77")
"""The namespace of the UUIDv5 ids of entries. It never changes."""

_TEXT_SIZE_MAX: Final = 4 * 1024 * 1024
"""The BSON size up to which a document becomes text: as text, many small numbers need thirty times the memory."""

_TEXT_DEPTH_MAX: Final = 100
"""The nesting up to which a document becomes text: pymongo recurses up to five times per level, and each Python has
another limit. MongoDB's manual guarantees the storage of at most this many levels."""

_TAG_FIELDS: Final = frozenset({"id", "field", "reason", "location", "sha256"})
_LINE_START: Final = f"{{{json.dumps(TAG)}: "


class QuarantineEntry(NamedTuple):
    """A rejected document.

    Attributes:
        id: a hash of its content.
        collection: its collection.
        document_id: a hash of its tenant and `_id`; None if it lacks one of them.
        location: where it was read.
        field: the invalid field; empty if there is no document.
        reason: one sentence.
        document: canonical Extended JSON of the whole document; None if there is no document, or JSON has no form
            for it.
        raw: the bytes in that case; None if there is a document.
    """

    id: UUID
    collection: str
    document_id: UUID | None
    location: str
    field: str
    reason: str
    document: str | None
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class UntaggedDocument:
    """A document without the tag of the quarantine.

    Attributes:
        document: the document; None if the record has only bytes.
        raw: the bytes in its place; None if there is a document.
        problem: why there is no document.
        resolves: the entry that its import resolves, if it comes from the quarantine.
        location: where it was read before it was quarantined.
    """

    document: dict[str, Any] | None
    raw: bytes | None = None
    problem: str | None = None
    resolves: UUID | None = None
    location: str | None = None


def untag(record: SourceRecord) -> UntaggedDocument:
    """Remove the tag from a line of a quarantine. In other sources a tag is data, which any tenant may write."""
    document = record.decode()
    if isinstance(document, str):
        return UntaggedDocument(None, record.raw, document)
    tag = document.get(TAG)
    if tag is None or not record.is_quarantine:
        return UntaggedDocument(document)
    if not isinstance(tag, Mapping) or not all(type(tag.get(name)) is str for name in _TAG_FIELDS):
        return UntaggedDocument(document)  # not written by the quarantine: the mapping handles the unknown field
    rest = {name: value for name, value in document.items() if name != TAG}
    location = sanitize_error(tag["location"])
    try:
        resolves = UUID(tag["id"])
        raw = None if rest else base64.b64decode(tag.get("raw", ""), validate=True)
    except (ValueError, TypeError):
        return UntaggedDocument(document)
    if raw is not None:
        return UntaggedDocument(None, raw, sanitize_error(tag["reason"]), resolves, location)
    return UntaggedDocument(rest, resolves=resolves, location=location)


def to_entry(record: SourceRecord, untagged: UntaggedDocument, field: str, reason: str) -> QuarantineEntry:
    """Build the entry of a rejected document.

    Args:
        record: the record of the document.
        untagged: its content.
        field: the invalid field.
        reason: one sentence.
    """
    location = untagged.location or f"{record.location.part}, entry {record.location.ordinal:,}"
    document_id: UUID | None = None
    document: str | None = None
    raw: bytes | None = untagged.raw or b""
    if untagged.document is not None:
        document_id = document_id_of(record.collection, untagged.document)
        document, raw = _text_or_bytes(untagged.document, record)
    content = raw if document is None else document.encode()
    key = uuid5(_NAMESPACE, f"{record.collection} {hashlib.sha256(content or b'').hexdigest()}")
    return QuarantineEntry(key, record.collection, document_id, location, field, reason, document, raw)


def _text_or_bytes(document: dict[str, Any], record: SourceRecord) -> tuple[str | None, bytes | None]:
    """Return a document as text, or as bytes (its BSON, or as read) if the text would decode to another document."""
    encoded = _encode_bson(document)
    if TAG in document:  # as text, the line would have two tags
        return None, record.raw
    if encoded is not None and len(encoded) > BSON_SIZE_MAX:  # JSON that MongoDB cannot store
        encoded = None
    encoding, raw = (record.encoding, record.raw) if encoded is None else ("bson", encoded)
    if len(raw) > _TEXT_SIZE_MAX or nests_deeper(encoding, raw, _TEXT_DEPTH_MAX):
        return None, raw
    try:
        text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)
        if encoded is None or _encode_bson(parse_extended_json(text)) == encoded:
            return text, None
    except Exception:  # noqa: BLE001, S110  # every document is kept, also one that breaks the encoder
        pass
    return None, raw


def _encode_bson(document: dict[str, Any]) -> bytes | None:
    try:
        return bson.encode(document)
    except (BSONError, ValueError, TypeError, ArithmeticError):
        return None  # JSON has values that BSON lacks, for instance integers of 100 bits


def document_id_of(collection: str, document: Mapping[str, Any]) -> UUID | None:
    """Return a hash of tenant and `_id`, which copies of one document share; None if one of them is missing."""
    tenant, value = tenant_of(document), document.get("_id")
    if value is None or tenant is None:
        return None
    match value:
        case str():
            text = f"text {value}"
        case ObjectId():
            text = f"ObjectId {value}"
        case Binary():
            text = f"binary {value.subtype} {value.hex()}"
        case bool() | int() | float():
            text = f"number {value!r}"
        case _:
            return None
    name = f"{collection} {tenant}\0{text}".encode("utf-8", "surrogatepass")
    return uuid5(_NAMESPACE, hashlib.sha256(name).hexdigest())


def tenant_of(document: Mapping[str, Any]) -> str | None:
    """Return the text of a document's tenant; None if it has none."""
    inner = document.get("payload") or document.get("Payload")
    for fields in (document, inner if isinstance(inner, Mapping) else {}):
        tenant = fields.get("tenantId") or fields.get("TenantId")
        if tenant is not None:
            return tenant if type(tenant) is str else None
    return None


def to_line(entry: QuarantineEntry) -> str:
    """Return an entry as a line of a quarantine file."""
    tag = {"id": str(entry.id), "field": entry.field, "reason": entry.reason, "location": entry.location}
    body = "" if entry.document is None else entry.document.strip()[1:-1].strip()
    tag["sha256"] = _digest(body)
    if entry.document is None:
        tag["raw"] = base64.b64encode(entry.raw or b"").decode()
    return f"{_LINE_START}{json.dumps(tag)}{', ' if body else ''}{body}}}"


def is_unedited(line: str) -> bool:
    """Return whether a line of a quarantine file is as `to_line` returned it."""
    if not line.startswith(_LINE_START) or not line.endswith("}"):
        return False
    if json_nests_deeper(line, DECODED_DEPTH_MAX):
        return False
    try:
        tag, end = json.JSONDecoder().raw_decode(line, len(_LINE_START))
        return bool(tag["sha256"] == _digest(line[end:-1].removeprefix(", ")))
    except (ValueError, TypeError, KeyError):
        return False


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
