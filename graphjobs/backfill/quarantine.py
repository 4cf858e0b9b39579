"""What cannot come: each document whole, with the reason, in a form that can be mended and read again; no I/O here.

An entry is known by the `_id` of its document, so that it is the same each time, and gone once a document of that `_id`
comes. Where two documents claim one id, or there is no document at all, it is known by its content: another one that
comes is no answer to it. A line of the quarantine's files names its entry, and answers that one.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from bson import json_util
from bson.binary import Binary
from bson.objectid import ObjectId

from graphjobs.backfill.extended import Found

TAG: Final = "_quarantine"
"""The field of a line of the quarantine's files that names its entry; no document of the source holds it."""

_NAMESPACE: Final = UUID("5f3f9a5e-6f0e-5b5c-9d3c-2f6a4c1c8e77")
"""Of the UUIDv5 that entries are known by; it never changes."""


class Entry(NamedTuple):
    """A document that cannot come.

    Attributes:
        id: what it is known by.
        collection: where it belongs.
        place: where it was found.
        field: which field is at fault; empty where there is no document.
        reason: why, in one sentence.
        document: the whole of it as canonical Extended JSON; None where there is none.
        raw: the bytes that are no document; None where there is one.
    """

    id: UUID
    collection: str
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
    """

    document: dict[str, Any] | None
    raw: bytes | None = None
    problem: str | None = None
    answers: UUID | None = None


def opened(found: Found) -> Opened:
    """Takes the tag off a document that comes from the quarantine; any other is as it was."""
    document = found.document
    if document is None:
        return Opened(None, found.raw or b"", found.problem)
    if TAG not in document:
        return Opened(document)
    tag = document[TAG]
    if not isinstance(tag, Mapping) or not isinstance(tag.get("id"), str):
        return Opened(document)  # the mapping refuses a field it does not know
    try:
        answers = UUID(tag["id"])
    except ValueError:
        return Opened(document)
    rest = {name: value for name, value in document.items() if name != TAG}
    raw = tag.get("raw")
    if not rest and isinstance(raw, str):
        reason = str(tag.get("reason") or "it is no document")
        return Opened(None, base64.b64decode(raw), reason, answers)
    return Opened(rest, answers=answers)


def entry_of(found: Found, what: Opened, field: str, reason: str, *, met: bool = False) -> Entry:
    """Makes the entry of what cannot come.

    Args:
        found: where it was found.
        what: it, opened.
        field: the field at fault.
        reason: one sentence.
        met: whether another one of its id is there, so that the id does not tell them apart.
    """
    place = f"{found.place.part}, entry {found.place.ordinal:,}"
    if what.document is None:
        raw = what.raw or b""
        return Entry(_by_content(found.collection, raw), found.collection, place, field, reason, None, raw)
    text = json_util.dumps(what.document, json_options=json_util.CANONICAL_JSON_OPTIONS)
    known_by = None if met else id_of(found.collection, what.document)
    key = known_by or _by_content(found.collection, text.encode())
    return Entry(key, found.collection, place, field, reason, text, None)


def id_of(collection: str, document: Mapping[str, Any]) -> UUID | None:
    """Gives what the entry of a document is known by, if it has one; None where it has no `_id`."""
    value = document.get("_id")
    match value:
        case None:
            return None
        case str():
            text = f"text {value}"
        case ObjectId():
            text = f"ObjectId {value}"
        case Binary():
            text = f"binary {value.subtype} {value.hex()}"
        case _:
            text = json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS)
    return uuid5(_NAMESPACE, f"{collection} _id {text}".encode("utf-8", "surrogatepass").decode("utf-8", "replace"))


def _by_content(collection: str, content: bytes) -> UUID:
    return uuid5(_NAMESPACE, f"{collection} content {hashlib.sha256(content).hexdigest()}")


def line_of(entry: Entry) -> str:
    """Gives an entry as a line of a quarantine's file, which can be mended and read again."""
    tag = {"id": str(entry.id), "field": entry.field, "reason": entry.reason, "place": entry.place}
    if entry.document is None:
        tag["raw"] = base64.b64encode(entry.raw or b"").decode()
        return json.dumps({TAG: tag})
    body = entry.document.strip()[1:-1].strip()
    return f"{{{json.dumps(TAG)}: {json.dumps(tag)}{', ' if body else ''}{body}}}"
