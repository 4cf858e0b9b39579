"""What cannot come: each document whole, with the reason, in a form that can be mended and read again; no I/O here.

An entry is known by its content, so that the same document is the same entry each time, and two documents are two. It
is settled when it was mended or given up: a line of the quarantine's files names its entry, and answers it when it
comes; so does, from a later source, a document of its tenant and `_id`. One that still cannot come takes its place.
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
from graphjobs.core.fields import sanitize_error
from graphjobs.core.json_values import DECODED_DEPTH_MAX
from graphjobs.core.json_values import nests_deeper as json_nests_deeper

TAG: Final = "_quarantine"
"""The field of a line of the quarantine's files that names its entry."""

_NAMESPACE: Final = UUID("5f3f9a5e-6f0e-5b5c-9d3c-2f6a4c1c8e77")
"""Of the UUIDv5 that entries are known by; it never changes."""

_TEXT_SIZE_MAX: Final = 4 * 1024 * 1024
"""Of more bytes of BSON than that no text is made: of many small numbers it would take thirty times the memory."""

_TEXT_DEPTH_MAX: Final = 100
"""Of what nests deeper no text is made: pymongo recurses up to five times a level, and each Python lets it by another
depth. MongoDB's manual promises to store no more levels than that."""

_TAG_FIELDS: Final = frozenset({"id", "field", "reason", "place", "sha256"})


class Entry(NamedTuple):
    """A document that cannot come.

    Attributes:
        id: what it is known by: its content.
        collection: where it belongs.
        document_id: of its tenant and its `_id`; None where it lacks one of them.
        place: where it was found.
        field: which field is at fault; empty where there is no document.
        reason: why, in one sentence.
        document: the whole of it as canonical Extended JSON; None where there is none, or JSON cannot hold it.
        raw: its bytes then; None where there is one.
    """

    id: UUID
    collection: str
    document_id: UUID | None
    place: str
    field: str
    reason: str
    document: str | None
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A document as it is to be mapped.

    Attributes:
        document: it, without the tag; None where there is none.
        raw: the bytes in its place; None where there is a document.
        problem: what is wrong where one should be.
        answers: the entry that it answers, if it comes from the quarantine.
        place: where it was found before it was quarantined.
    """

    document: dict[str, Any] | None
    raw: bytes | None = None
    problem: str | None = None
    answers: UUID | None = None
    place: str | None = None


def opened(found: SourceRecord) -> Opened:
    """Takes the tag off a document that comes from the quarantine; any other is as it was."""
    document = found.decode()
    if isinstance(document, str):
        return Opened(None, found.raw, document)
    tag = document.get(TAG)
    if tag is None:
        return Opened(document)
    if not isinstance(tag, Mapping) or not all(type(tag.get(name)) is str for name in _TAG_FIELDS):
        return Opened(document)  # none of ours: the mapping refuses a field that it does not know
    rest = {name: value for name, value in document.items() if name != TAG}
    place = sanitize_error(tag["place"])
    try:
        answers = UUID(tag["id"])
        raw = None if rest else base64.b64decode(tag.get("raw", ""), validate=True)
    except (ValueError, TypeError):
        return Opened(document)
    if raw is not None:
        return Opened(None, raw, sanitize_error(tag["reason"]), answers, place)
    return Opened(rest, answers=answers, place=place)


def entry_of(found: SourceRecord, what: Opened, field: str, reason: str) -> Entry:
    """Makes the entry of what cannot come.

    Args:
        found: where it was found.
        what: it, opened.
        field: the field at fault.
        reason: one sentence.
    """
    place = what.place or f"{found.location.part}, entry {found.location.ordinal:,}"
    document, raw = (None, what.raw or b"") if what.document is None else _kept(what.document, found)
    content = raw if document is None else document.encode()
    key = uuid5(_NAMESPACE, f"{found.collection} {hashlib.sha256(content or b'').hexdigest()}")
    named = None if what.document is None else document_id_of(found.collection, what.document)
    return Entry(key, found.collection, named, place, field, reason, document, raw)


def _kept(document: dict[str, Any], found: SourceRecord) -> tuple[str | None, bytes | None]:
    """Gives a document as text, or as bytes where text would come back as another one: its BSON, or as it was read."""
    encoded = _bson_of(document)
    form, raw = (found.encoding, found.raw) if encoded is None else ("bson", encoded)
    if (encoded is not None and len(encoded) > _TEXT_SIZE_MAX) or nests_deeper(form, raw, _TEXT_DEPTH_MAX):
        return None, raw
    try:
        text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)
        if encoded is None or _bson_of(parse_extended_json(text)) == encoded:
            return text, None
    except Exception:  # noqa: BLE001, S110  # whatever it holds, it is kept
        pass
    return None, raw


def _bson_of(document: dict[str, Any]) -> bytes | None:
    try:
        return bson.encode(document)
    except (BSONError, ValueError, TypeError, ArithmeticError):
        return None  # JSON holds more than BSON, as integers of 100 bits


def document_id_of(collection: str, document: Mapping[str, Any]) -> UUID | None:
    """Gives what documents of one tenant and `_id` have in common; None where one of them is missing."""
    inner = document.get("payload")
    tenant = document.get("tenantId") or (inner.get("tenantId") if isinstance(inner, Mapping) else None)
    value = document.get("_id")
    if value is None or type(tenant) is not str:
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
    named = f"{collection} {tenant}\0{text}".encode("utf-8", "surrogatepass")
    return uuid5(_NAMESPACE, hashlib.sha256(named).hexdigest())


def line_of(entry: Entry) -> str:
    """Gives an entry as a line of a quarantine's file, which can be mended and read again."""
    tag = {"id": str(entry.id), "field": entry.field, "reason": entry.reason, "place": entry.place}
    body = "" if entry.document is None else entry.document.strip()[1:-1].strip()
    tag["sha256"] = _digest(body)
    if entry.document is None:
        tag["raw"] = base64.b64encode(entry.raw or b"").decode()
    return f"{_BEGINNING}{json.dumps(tag)}{', ' if body else ''}{body}}}"


_BEGINNING: Final = f"{{{json.dumps(TAG)}: "


def as_written(line: str) -> bool:
    """Tells whether a line of a quarantine's file is as `line_of` gave it: what was mended is not."""
    if not line.startswith(_BEGINNING) or not line.endswith("}"):
        return False
    if json_nests_deeper(line, DECODED_DEPTH_MAX):
        return False
    try:
        tag, end = json.JSONDecoder().raw_decode(line, len(_BEGINNING))
        return bool(tag["sha256"] == _digest(line[end:-1].removeprefix(", ")))
    except (ValueError, TypeError, KeyError):
        return False


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
