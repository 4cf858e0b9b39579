"""Maps a value to a document of MongoDB, the reverse of `mapping.map_document`. Pure, no I/O.

`map_document` maps the document to the same value, including its version and an event's number. `_id` is the original.
Three kinds of information have a special form:

- A time with more precision than milliseconds is truncated, so that it sorts, and complete as text under `payload`;
  within `inputs` it is only text. An event, which has a `payload` of its own, is then complete under `payload`.
- An object with a key that begins with "$" has another meaning in Extended JSON. It becomes JSON text.
- `legacyUuids` is the byte order of UUIDs of the old binary subtype.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from bson.binary import OLD_UUID_SUBTYPE, Binary
from bson.int64 import Int64
from pydantic.alias_generators import to_camel

from graphjobs.backfill.transform.coercion import truncate_to_millis
from graphjobs.backfill.transform.diagnostics import FieldRejected
from graphjobs.backfill.transform.dotnet import is_unset_time
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.backfill.transform.legacy_ids import (
    MongoId,
    map_id,
    map_own_id,
    parse_id,
    restore_mongo_id,
    restore_own_id,
    restore_reference,
)
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.core.event_log import Event
from graphjobs.core.fields import FrozenModel
from graphjobs.core.json_values import to_plain_json
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.models import GraphJob, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob

_CONVERTED: Final = frozenset({"id", "job_id", "build_job_id", "inputs", "metadata", "payload"})
"""Fields that are converted."""
_ORDERS: Final[Mapping[Any, LegacyUuids]] = MappingProxyType(
    {"uuidPython": "python", "uuidJava": "java", "uuidCsharp": "csharp"}
)


def to_document(value: GraphJob | PolicyRunJob | Event) -> dict[str, Any]:
    """Return the document of a value, to be encoded by `bson`.

    Raises:
        InvalidJob: the value is an event without an id, because it was never stored.
    """
    return _event_document(value) if isinstance(value, Event) else _job_document(value)


def _job_document(job: GraphJob | PolicyRunJob) -> dict[str, Any]:
    order = _byte_order(job.metadata, "legacyMongoIdType", "legacyIdType", "legacyBuildJobIdType")
    document, reconstructed = _job_ids(job, order)
    if isinstance(job, GraphJob):
        document["kind"] = str(job.type)
    inline, exact = _split_fields(job)
    document |= inline
    if isinstance(job, GraphOverlayJob) and job.build_job_id is not None:
        document["buildJobId"], more = _reference(job, job.build_job_id, job.metadata, "buildJobId", order)
        reconstructed |= more
    if isinstance(job, PolicyRunJob):
        document["inputs"] = _inputs(job.inputs)
    document["metadata"] = _encode_json(_without(job.metadata, reconstructed))
    return _with_payload(document, exact, order)


def _event_document(event: Event) -> dict[str, Any]:
    order = _byte_order(event.payload, "legacyIdType", "legacyJobIdType")
    document, reconstructed = _event_ids(event, order)
    document["jobId"], more = _reference(event, event.job_id, event.payload, "jobId", order)
    reconstructed |= more
    inline, exact = _split_fields(event)
    document |= inline
    payload = _encode_json(_without(event.payload, reconstructed))
    if exact or (isinstance(payload, dict) and "jobId" in payload and "payload" in payload):
        # The mapping takes such a payload for a complete event, so it must be within one.
        exact |= {"jobId": document["jobId"], "payload": payload}
    else:
        document["payload"] = payload
    return _with_payload(document, exact, order)


def _with_payload(document: dict[str, Any], payload: dict[str, Any], order: LegacyUuids) -> dict[str, Any]:
    if payload:
        document["payload"] = payload
    if any(isinstance(value, Binary) and value.subtype == OLD_UUID_SUBTYPE for value in document.values()):
        document["legacyUuids"] = order
    return document


def _split_fields(value: FrozenModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that are not converted, and as text those times that are truncated in them."""
    inline: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for name in type(value).model_fields:
        field = getattr(value, name)
        if field is None or name in _CONVERTED:
            continue
        alias = to_camel(name)
        if isinstance(field, datetime):
            inline[alias] = truncate_to_millis(field.astimezone(UTC))
            if inline[alias] != field or is_unset_time(field):
                exact[alias] = _time_text(field)
        elif isinstance(field, Enum):
            inline[alias] = field.value
        else:
            inline[alias] = list(field) if isinstance(field, tuple) else field
    return inline, exact


def _inputs(inputs: PolicyRunInputs) -> dict[str, Any]:
    cursors = {"advisoryCursor": inputs.advisory_cursor, "vexCursor": inputs.vex_cursor}
    times = {
        name: _time_text(time) if time != truncate_to_millis(time) or is_unset_time(time) else time
        for name, time in cursors.items()
        if time
    }
    return {
        "sbomSet": list(inputs.sbom_set),
        **times,
        "environment": _encode_json(inputs.environment),
        "captureExplain": inputs.capture_explain,
    }


def _time_text(time: datetime) -> str:
    # Six digits show that a time such as that of the year 1 is exact, and not what .NET writes for no time.
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _encode_json(entries: Mapping[str, Any]) -> dict[str, Any] | str:
    plain: dict[str, Any] = to_plain_json(entries)
    if any(key.startswith("$") for key in _iter_keys(plain)):
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return plain


def _iter_keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _iter_keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _iter_keys(item)


def _without(entries: Mapping[str, Any], reconstructed: Mapping[str, str]) -> dict[str, Any]:
    return {name: item for name, item in entries.items() if name not in reconstructed}


def _byte_order(entries: Mapping[str, Any], *types: str) -> LegacyUuids:
    orders = (_ORDERS[kind] for name in types if isinstance(kind := entries.get(name), str) and kind in _ORDERS)
    return next(orders, "csharp")


def _job_ids(job: GraphJob | PolicyRunJob, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a job's ids, and the entries of its metadata that the ids reconstruct.

    A caller may have written the metadata. So a legacy id is used only if it maps to the job's id again.
    """
    mongo_id, own_id = restore_mongo_id(job), restore_own_id(job)
    candidates: list[dict[str, Any]] = []
    if mongo_id is not None and mongo_id != own_id:
        candidates.append({"_id": mongo_id, "id": str(job.id) if own_id is None else own_id})
    if own_id is not None:
        candidates.append({"_id": own_id})
    for ids in candidates:
        reader = FieldReader(dict(ids))
        try:
            mapped = map_own_id(reader, job.tenant_id, order)
        except FieldRejected:
            continue
        if mapped.id == job.id and _contains(job.metadata, reader.preserved):
            return ids, reader.preserved
    return {"_id": str(job.id)}, {}


def _event_ids(event: Event, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Return an event's ids, and the entries of its payload that the ids reconstruct."""
    number = None if event.id is None else Int64(event.id)
    mongo_id = restore_mongo_id(event)
    if mongo_id is not None:
        try:
            _, text, kind = parse_id(mongo_id, "_id", order)
        except FieldRejected:
            text, kind = "", None
        reconstructed = {"legacyId": text} if kind is None else {"legacyId": text, "legacyIdType": kind}
        if _contains(event.payload, reconstructed):
            return ({"_id": mongo_id} if number is None else {"_id": mongo_id, "id": number}), reconstructed
    if number is None:
        raise InvalidJob("id: the event has no id, because it was never stored; append it to its log first", field="id")
    return {"_id": number}, {}


def _reference(
    value: GraphOverlayJob | Event, job_id: UUID, entries: Mapping[str, Any], field: str, order: LegacyUuids
) -> tuple[MongoId, dict[str, str]]:
    """Return the id of the job that a value refers to, and the entries that the id reconstructs."""
    legacy_id = restore_reference(value)
    if legacy_id is not None:
        try:
            mapped = map_id(legacy_id, field, value.tenant_id, order)
        except FieldRejected:
            return str(job_id), {}
        reconstructed = mapped.preserved(f"legacy{field[0].upper()}{field[1:]}")
        if mapped.id == job_id and _contains(entries, reconstructed):
            return legacy_id, reconstructed
    return str(job_id), {}


def _contains(entries: Mapping[str, Any], reconstructed: Mapping[str, str]) -> bool:
    return all(entries.get(name) == text for name, text in reconstructed.items())
