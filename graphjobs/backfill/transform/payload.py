"""Merges the `payload` of a document with the fields beside it. Old documents have the columns beside a payload."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson.code import Code
from bson.dbref import DBRef
from bson.int64 import Int64
from pydantic.alias_generators import to_camel

from graphjobs.backfill.transform.coercion import parse_time, to_kebab_case, truncate_to_millis
from graphjobs.backfill.transform.diagnostics import safe_label
from graphjobs.backfill.transform.dotnet import unwrap
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.core.json_values import JSON_DEPTH_MAX
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob

_NAMES: Final = frozenset(
    to_camel(name)
    for kind in (GraphBuildJob, GraphOverlayJob, GraphJobEvent, PolicyRunJob, PolicyRunInputs)
    for name in kind.model_fields
) | {"kind", "type", "payload", "updatedAt", "legacyUuids", "priorityRank", "attemptCount", "cancelledAt"}
"""All fields that a document may have, except `_id`."""

_PASCAL_CASE: Final = {name[0].upper() + name[1:]: name for name in sorted(_NAMES)}
"""The names of .NET's properties, each with the name of its field."""

_ENUM_FIELDS: Final = frozenset({"kind", "type", "overlayKind", "status", "trigger", "mode", "priority"})
_NUMBERS: Final = (int, Int64, float)
_FLAT: Final = frozenset({str, int, float, bool, datetime, type(None)})


def to_camel_case(name: object) -> object:
    """Return a name of .NET in the spelling of documents: `TenantId` becomes tenantId."""
    return name[:1].lower() + name[1:] if type(name) is str else name


def accept_dotnet_names(reader: FieldReader) -> None:
    """Rename fields in the spelling of .NET (`TenantId`), and take values out of their types, each with a change.

    Unknown fields stay as they are.

    Raises:
        FieldRejected: a field is there in both spellings.
    """
    fields = reader.fields
    if not _PASCAL_CASE.keys().isdisjoint(fields):
        for old in sorted(name for name in fields if name in _PASCAL_CASE):
            reader.rename(old, _PASCAL_CASE[old])
    for name in sorted(name for name, value in fields.items() if type(value) is dict and "_v" in value):
        value = unwrap(fields[name])
        if value is not fields[name] and name in _NAMES:
            fields[name] = value
            reader.note_change(name, "name of its type left out")


def merge_payload(source: Mapping[str, Any]) -> FieldReader:
    """Merge the fields under `payload` into the document. An inline field wins over another value under `payload`."""
    reader = FieldReader(dict(source))
    accept_dotnet_names(reader)
    inner = reader.fields.pop("payload", None)
    if inner is None:
        return reader
    if not isinstance(inner, Mapping):
        reader.reject("payload", "a document", inner)
    fields, nested = reader.fields, FieldReader(dict(inner), reader.changes)
    accept_dotnet_names(nested)
    inner = nested.fields
    reader.fields = {**inner, **fields}
    if len(reader.fields) < len(inner) + len(fields):
        for name in sorted(set(inner) & set(fields), key=str):
            _resolve_conflict(reader, name, fields[name], inner[name])
    return reader


def _resolve_conflict(reader: FieldReader, name: str, inline: object, nested: object) -> None:
    if nested is None or _is_equal(inline, nested):
        return
    if inline is None:
        reader.fields[name] = nested
        return
    if type(inline) is not type(nested):
        first, second = parse_time(inline), parse_time(nested)
        if first and second and truncate_to_millis(first[0]) == truncate_to_millis(second[0]):
            # MongoDB truncates times to milliseconds, so the text of an export may be more precise.
            reader.fields[name] = nested if first[0] == truncate_to_millis(first[0]) else inline
            return
    are_words = name in _ENUM_FIELDS and type(inline) is str and type(nested) is str
    if not (are_words and to_kebab_case(str(inline)) == to_kebab_case(str(nested))):
        reader.note_change(safe_label(name), "another one under payload left out")


def _is_equal(one: object, other: object) -> bool:
    if type(one) in _NUMBERS and type(other) in _NUMBERS:
        return one == other
    # Deeper values and references are rejected by their own field, so they need no comparison.
    return type(one) is type(other) and _is_comparable(one, JSON_DEPTH_MAX) and bool(one == other)


def _is_comparable(value: object, levels: int) -> bool:
    """Check that a value nests only in documents and lists, with at most `levels` levels."""
    if type(value) in _FLAT:
        return True
    if isinstance(value, Mapping | list):
        items = value.values() if isinstance(value, Mapping) else value
        return levels > 0 and all(_is_comparable(item, levels - 1) for item in items)
    return not isinstance(value, DBRef | Code)
