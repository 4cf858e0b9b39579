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

from graphjobs.backfill.transform.coercion import in_milliseconds
from graphjobs.backfill.transform.diagnostics import Refusal
from graphjobs.backfill.transform.field_reader import Document
from graphjobs.backfill.transform.legacy_ids import (
    LegacyUuids,
    MongoId,
    form_of,
    identify,
    identity_of,
    legacy_id_of,
    legacy_named_id_of,
    legacy_reference_of,
)
from graphjobs.core.event_log import Event
from graphjobs.core.fields import FrozenModel
from graphjobs.core.json_values import to_plain_json
from graphjobs.errors import InvalidJob
from graphjobs.graph_jobs.models import GraphJob, GraphOverlayJob
from graphjobs.policy_runs.models import PolicyRunInputs, PolicyRunJob

_APART: Final = frozenset({"id", "job_id", "build_job_id", "inputs", "metadata", "payload"})
"""Fields that do not stand there as they are."""
_ORDERS: Final[Mapping[Any, LegacyUuids]] = MappingProxyType(
    {"uuidPython": "python", "uuidJava": "java", "uuidCsharp": "csharp"}
)


def document_of(value: GraphJob | PolicyRunJob | Event) -> dict[str, Any]:
    """Gives the document of a value, as `bson` encodes it.

    Raises:
        InvalidJob: it is an event that was never stored, and so has no id.
    """
    return _event_document(value) if isinstance(value, Event) else _job_document(value)


def _job_document(job: GraphJob | PolicyRunJob) -> dict[str, Any]:
    order = _order_of(job.metadata, "legacyMongoIdType", "legacyIdType", "legacyBuildJobIdType")
    document, told = _ids_of(job, order)
    if isinstance(job, GraphJob):
        document["kind"] = str(job.type)
    inline, exact = _fields_of(job)
    document |= inline
    if isinstance(job, GraphOverlayJob) and job.build_job_id is not None:
        legacy = legacy_reference_of(job)
        own = (job.build_job_id, job.tenant_id, job.metadata)
        document["buildJobId"], more = _reference(legacy, "buildJobId", "legacyBuildJobId", *own, order=order)
        told |= more
    if isinstance(job, PolicyRunJob):
        document["inputs"] = _inputs(job.inputs)
    document["metadata"] = _spelled(_without(job.metadata, told))
    return _completed(document, exact, order)


def _event_document(event: Event) -> dict[str, Any]:
    order = _order_of(event.payload, "legacyIdType", "legacyJobIdType")
    document, told = _numbered(event, order)
    own = (event.job_id, event.tenant_id, event.payload)
    document["jobId"], more = _reference(legacy_reference_of(event), "jobId", "legacyJobId", *own, order=order)
    told |= more
    inline, exact = _fields_of(event)
    document |= inline
    payload = _spelled(_without(event.payload, told))
    if exact or (isinstance(payload, dict) and "jobId" in payload and "payload" in payload):
        # What has both is taken for a whole event, and so stands in one.
        exact |= {"jobId": document["jobId"], "payload": payload}
    else:
        document["payload"] = payload
    return _completed(document, exact, order)


def _completed(document: dict[str, Any], within: dict[str, Any], order: LegacyUuids) -> dict[str, Any]:
    if within:
        document["payload"] = within
    if any(isinstance(value, Binary) and value.subtype == OLD_UUID_SUBTYPE for value in document.values()):
        document["legacyUuids"] = order
    return document


def _fields_of(value: FrozenModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives the fields that stand there as they are, and of those the times that are finer, as text."""
    inline: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for name in type(value).model_fields:
        field = getattr(value, name)
        if field is None or name in _APART:
            continue
        alias = to_camel(name)
        if isinstance(field, datetime):
            inline[alias] = in_milliseconds(field.astimezone(UTC))
            if inline[alias] != field:
                exact[alias] = _text_of(field)
        elif isinstance(field, Enum):
            inline[alias] = field.value
        else:
            inline[alias] = list(field) if isinstance(field, tuple) else field
    return inline, exact


def _inputs(inputs: PolicyRunInputs) -> dict[str, Any]:
    cursors = {"advisoryCursor": inputs.advisory_cursor, "vexCursor": inputs.vex_cursor}
    times = {name: _text_of(time) if time != in_milliseconds(time) else time for name, time in cursors.items() if time}
    return {
        "sbomSet": list(inputs.sbom_set),
        **times,
        "environment": _spelled(inputs.environment),
        "captureExplain": inputs.capture_explain,
    }


def _text_of(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _spelled(entries: Mapping[str, Any]) -> dict[str, Any] | str:
    plain: dict[str, Any] = to_plain_json(entries)
    if any(key.startswith("$") for key in _keys_of(plain)):
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return plain


def _keys_of(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys_of(item)


def _without(entries: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, Any]:
    return {name: item for name, item in entries.items() if name not in told}


def _order_of(kept: Mapping[str, Any], *types: str) -> LegacyUuids:
    named = (_ORDERS[kind] for name in types if isinstance(kind := kept.get(name), str) and kind in _ORDERS)
    return next(named, "csharp")


def _ids_of(job: GraphJob | PolicyRunJob, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives a job's ids, and those entries of its metadata that they tell again.

    Anybody may have written the metadata; an id that would not come back as this job's is none of its own.
    """
    old, named = legacy_id_of(job), legacy_named_id_of(job)
    candidates: list[dict[str, Any]] = []
    if old is not None and old != named:
        candidates.append({"_id": old, "id": str(job.id) if named is None else named})
    if named is not None:
        candidates.append({"_id": named})
    for ids in candidates:
        document = Document(dict(ids), [], {})
        try:
            identity = identify(document, job.tenant_id, order)
        except Refusal:
            continue
        if identity.id == job.id and _holds(job.metadata, document.kept):
            return ids, document.kept
    return {"_id": str(job.id)}, {}


def _numbered(event: Event, order: LegacyUuids) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives an event's ids, and those entries of its payload that they tell again."""
    number = None if event.id is None else Int64(event.id)
    old = legacy_id_of(event)
    if old is not None:
        try:
            _, text, kind = form_of(old, "_id", order)
        except Refusal:
            text, kind = "", None
        told = {"legacyId": text} if kind is None else {"legacyId": text, "legacyIdType": kind}
        if _holds(event.payload, told):
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
    kept: Mapping[str, Any],
    *,
    order: LegacyUuids,
) -> tuple[MongoId, dict[str, str]]:
    """Gives the id of another job, and those entries that it tells again."""
    if legacy is not None:
        try:
            identity = identity_of(legacy, field, tenant_id, order)
        except Refusal:
            return str(job_id), {}
        told = identity.kept(name)
        if identity.id == job_id and _holds(kept, told):
            return legacy, told
    return str(job_id), {}


def _holds(kept: Mapping[str, Any], told: Mapping[str, str]) -> bool:
    return all(kept.get(name) == text for name, text in told.items())
