"""From one of our values to the document that MongoDB holds of it: `mapping.map_document` the other way; pure, no I/O.

What is mapped again is the value it was made of, its version and an event's number included, and `_id` is what it was.
Three things stand there that MongoDB would have no place for:

- A time of ours is finer than its own. It stands inline cut to milliseconds, so that it sorts, and as text under
  `payload`; within `inputs` as text alone. An event, whose own is called `payload`, stands as a whole under it then.
- An object with a key that begins with "$" means something else in Extended JSON. It stands as JSON text.
- `legacyUuids` tells whose byte order UUIDs of the old binary subtype have.
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
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.backfill.transform.legacy_ids import (
    LegacyUuids,
    MongoId,
    map_id,
    map_own_id,
    parse_id,
    restore_mongo_id,
    restore_named_id,
    restore_reference,
)
from graphjobs.core.event_log import Event
from graphjobs.core.fields import FrozenModel
from graphjobs.core.json_values import to_plain_json
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.models import GraphJob, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob

_CONVERTED: Final = frozenset({"id", "job_id", "build_job_id", "inputs", "metadata", "payload"})
"""Fields that do not stand there as they are."""
_ORDERS: Final[Mapping[Any, LegacyUuids]] = MappingProxyType(
    {"uuidPython": "python", "uuidJava": "java", "uuidCsharp": "csharp"}
)


def to_document(value: GraphJob | PolicyRunJob | Event) -> dict[str, Any]:
    """Gives the document of a value, as `bson` encodes it.

    Raises:
        InvalidJob: it is an event that was never stored, and so has no id.
    """
    return _event_document(value) if isinstance(value, Event) else _job_document(value)


def _job_document(job: GraphJob | PolicyRunJob) -> dict[str, Any]:
    order = _byte_order(job.metadata, "legacyMongoIdType", "legacyIdType", "legacyBuildJobIdType")
    document, told = _job_ids(job, order)
    if isinstance(job, GraphJob):
        document["kind"] = str(job.type)
    inline, exact = _split_fields(job)
    document |= inline
    if isinstance(job, GraphOverlayJob) and job.build_job_id is not None:
        legacy = restore_reference(job)
        own = (job.build_job_id, job.tenant_id, job.metadata)
        document["buildJobId"], more = _reference(legacy, "buildJobId", "legacyBuildJobId", *own, order=order)
        told |= more
    if isinstance(job, PolicyRunJob):
        document["inputs"] = _inputs(job.inputs)
    document["metadata"] = _encode_json(_without(job.metadata, told))
    return _with_payload(document, exact, order)


def _event_document(event: Event) -> dict[str, Any]:
    order = _byte_order(event.payload, "legacyIdType", "legacyJobIdType")
    document, told = _event_ids(event, order)
    own = (event.job_id, event.tenant_id, event.payload)
    document["jobId"], more = _reference(restore_reference(event), "jobId", "legacyJobId", *own, order=order)
    told |= more
    inline, exact = _split_fields(event)
    document |= inline
    payload = _encode_json(_without(event.payload, told))
    if exact or (isinstance(payload, dict) and "jobId" in payload and "payload" in payload):
        # What has both is taken for a whole event, and so stands in one.
        exact |= {"jobId": document["jobId"], "payload": payload}
    else:
        document["payload"] = payload
    return _with_payload(document, exact, order)


def _with_payload(document: dict[str, Any], within: dict[str, Any], order: LegacyUuids) -> dict[str, Any]:
    if within:
        document["payload"] = within
    if any(isinstance(value, Binary) and value.subtype == OLD_UUID_SUBTYPE for value in document.values()):
        document["legacyUuids"] = order
    return document


def _split_fields(value: FrozenModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives the fields that stand there as they are, and of those the times that are finer, as text."""
    inline: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for name in type(value).model_fields:
        field = getattr(value, name)
        if field is None or name in _CONVERTED:
            continue
        alias = to_camel(name)
        if isinstance(field, datetime):
            inline[alias] = truncate_to_millis(field.astimezone(UTC))
            if inline[alias] != field:
                exact[alias] = _time_text(field)
        elif isinstance(field, Enum):
            inline[alias] = field.value
        else:
            inline[alias] = list(field) if isinstance(field, tuple) else field
    return inline, exact


def _inputs(inputs: PolicyRunInputs) -> dict[str, Any]:
    cursors = {"advisoryCursor": inputs.advisory_cursor, "vexCursor": inputs.vex_cursor}
    times = {
        name: _time_text(time) if time != truncate_to_millis(time) else time for name, time in cursors.items() if time
    }
    return {
        "sbomSet": list(inputs.sbom_set),
        **times,
        "environment": _encode_json(inputs.environment),
        "captureExplain": inputs.capture_explain,
    }


def _time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


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
    named = (_ORDERS[kind] for name in types if isinstance(kind := entries.get(name), str) and kind in _ORDERS)
    return next(named, "csharp")


def _job_ids(job: GraphJob | PolicyRunJob, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives a job's ids, and those entries of its metadata that they tell again.

    Anybody may have written the metadata; an id that would not come back as this job's is none of its own.
    """
    old, named = restore_mongo_id(job), restore_named_id(job)
    candidates: list[dict[str, Any]] = []
    if old is not None and old != named:
        candidates.append({"_id": old, "id": str(job.id) if named is None else named})
    if named is not None:
        candidates.append({"_id": named})
    for ids in candidates:
        document = FieldReader(dict(ids), [], {})
        try:
            identity = map_own_id(document, job.tenant_id, order)
        except FieldRejected:
            continue
        if identity.id == job.id and _contains(job.metadata, document.preserved):
            return ids, document.preserved
    return {"_id": str(job.id)}, {}


def _event_ids(event: Event, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives an event's ids, and those entries of its payload that they tell again."""
    number = None if event.id is None else Int64(event.id)
    old = restore_mongo_id(event)
    if old is not None:
        try:
            _, text, kind = parse_id(old, "_id", order)
        except FieldRejected:
            text, kind = "", None
        told = {"legacyId": text} if kind is None else {"legacyId": text, "legacyIdType": kind}
        if _contains(event.payload, told):
            return ({"_id": old} if number is None else {"_id": old, "id": number}), told
    if number is None:
        raise InvalidJob("id: an event that was never stored has none; append it to its log first", field="id")
    return {"_id": number}, {}


def _reference(
    legacy: MongoId | None,
    field: str,
    name: str,
    job_id: UUID,
    tenant_id: str,
    entries: Mapping[str, Any],
    *,
    order: LegacyUuids,
) -> tuple[MongoId, dict[str, str]]:
    """Gives the id of another job, and those entries that it tells again."""
    if legacy is not None:
        try:
            identity = map_id(legacy, field, tenant_id, order)
        except FieldRejected:
            return str(job_id), {}
        told = identity.preserved(name)
        if identity.id == job_id and _contains(entries, told):
            return legacy, told
    return str(job_id), {}


def _contains(entries: Mapping[str, Any], reconstructed: Mapping[str, str]) -> bool:
    return all(entries.get(name) == text for name, text in reconstructed.items())
