"""Maps one document of MongoDB, as `bson` decodes it, to a value. Pure: no clock, no random numbers, no I/O.

Equal documents map to equal values, in any order of their keys. Old words and missing parts are repaired, each with a
`FieldChange`. Other invalid documents are rejected, with one sentence that never repeats a value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, cast, get_args

from bson.int64 import Int64
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transform.diagnostics import FieldChange, FieldRejected, describe
from graphjobs.backfill.transform.field_reader import EnumWords, FieldReader
from graphjobs.backfill.transform.legacy_ids import (
    find_byte_order,
    map_id,
    map_own_id,
    objectid_time,
    parse_id,
    preserve_legacy_id,
)
from graphjobs.backfill.transform.payload import accept_dotnet_names, merge_payload, to_camel_case
from graphjobs.backfill.transform.repair import RUNNING, repair_event_time, repair_job_state, repair_run_state
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.core.fields import FrozenModel
from graphjobs.core.invalid_values import from_validation_error
from graphjobs.core.state_machine import StatusEnum
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

V = TypeVar("V", bound=FrozenModel)
MappedValue: TypeAlias = GraphBuildJob | GraphOverlayJob | GraphJobEvent | PolicyRunJob | PolicyRunEvent


@dataclass(frozen=True, slots=True)
class Mapped:
    """A document that was mapped.

    Attributes:
        value: the value. The version of a graph job is the document's `updatedAt`, or None. An event has an id only if
            the document's id was a number.
        changes: the changes, in an order that does not depend on the order of the keys.
    """

    value: MappedValue
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document that was rejected.

    Attributes:
        reason: one sentence, without values of the document.
        field: the invalid field, as documents spell it.
    """

    reason: str
    field: str


def _enum_values(*current: str, **old: str) -> EnumWords:
    # The numbers are those of the tables, and of the enumerations of .NET.
    return EnumWords(MappingProxyType({**{word: word for word in current}, **old}), current)


_GRAPH_STATUS_OF: Final = {str(status): status for status in GraphJobStatus}
_GRAPH_STATUSES: Final = _enum_values(*GraphJobStatus, pending="queued", cancelled="canceled")
_RUN_EVENT_STATUSES: Final = _enum_values(
    *PolicyRunStatus, queued="pending", succeeded="completed", cancelled="canceled"
)
_RUN_STATUSES: Final = EnumWords({**_RUN_EVENT_STATUSES.words, RUNNING: RUNNING}, _RUN_EVENT_STATUSES.codes)
_KINDS: Final = _enum_values(*GraphJobType)
_MODES: Final = _enum_values(*PolicyRunMode)
_PRIORITIES: Final = _enum_values(*PolicyRunPriority)
_OVERLAY_KINDS: Final = _enum_values("policy", "advisory", "vex")
_BUILD_TRIGGERS: Final = _enum_values("sbom-version", "backfill", "manual")
_OVERLAY_TRIGGERS: Final = _enum_values("policy", "advisory", "vex", "sbom-version", "manual")
_BYTE_ORDERS: Final = EnumWords({order: order for order in get_args(LegacyUuids)})
_SCHEMAS: Final[Mapping[type[FrozenModel], str]] = {
    kind: kind.model_fields["schema_version"].default for kind in (GraphBuildJob, GraphOverlayJob, PolicyRunJob)
}
_EVENT_NUMBER_MAX: Final = 2**62
"""Later events are numbered after the highest id, and the sequence must not end."""
_KIND_FIELDS: Final = ("kind", "type", "overlayKind", "schemaVersion")
_KINDS_OF_SCHEMAS: Final = {_SCHEMAS[kind]: str(kind.type) for kind in (GraphBuildJob, GraphOverlayJob)}


def map_document(collection: str, document: object, *, legacy_uuids: LegacyUuids = "csharp") -> Mapped | Rejection:
    """Map one document of `graph_jobs`, `policy_runs`, `graph_job_events` or `policy_run_events`.

    Args:
        collection: the document's collection.
        document: a mapping as `bson` decodes it: naive times in UTC, UUIDs as `Binary`, other times as `DatetimeMS`.
        legacy_uuids: byte order of UUIDs of the old subtype 3, unless the document's `id` shows it.

    Raises:
        KeyError: the collection is unknown.
    """
    map_source = _MAPPERS[collection]
    if type(document) is not dict and not isinstance(document, Mapping):
        return Rejection(f"_id: the record must be a document, not {describe(document)}", "_id")
    try:
        return map_source(document, legacy_uuids)
    except FieldRejected as rejected:
        return Rejection(str(rejected), rejected.field)


def _map_graph_job(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    reader = merge_payload(source)
    legacy_uuids = _byte_order(reader, legacy_uuids)
    tenant = reader.require_text("tenantId")
    kind = _job_type(reader)
    own_id = reader.fields.get("_id")
    mapped_id = map_own_id(reader, tenant, legacy_uuids)
    status = _GRAPH_STATUS_OF[reader.enum("status", _GRAPH_STATUSES)]
    fields = repair_job_state(reader, created_by_id=objectid_time(own_id), status=status)
    fields["id"] = mapped_id.id
    fields["tenant_id"] = tenant
    fields["correlation_id"] = reader.text("correlationId")
    if kind is GraphBuildJob:
        fields["sbom_id"] = reader.require_text("sbomId")
        fields["sbom_version_id"] = reader.require_text("sbomVersionId")
        fields["sbom_digest"] = reader.digest("sbomDigest")
        fields["graph_snapshot_id"] = reader.text("graphSnapshotId")
        fields["trigger"] = reader.enum("trigger", _BUILD_TRIGGERS)
        fields["cartographer_job_id"] = reader.text("cartographerJobId")
    else:
        fields["graph_snapshot_id"] = reader.require_text("graphSnapshotId")
        fields["build_job_id"] = _map_reference(reader, "buildJobId", "legacyBuildJobId", tenant, legacy_uuids)
        fields["overlay_kind"] = reader.enum("overlayKind", _OVERLAY_KINDS)
        fields["overlay_key"] = reader.require_text("overlayKey")
        fields["subjects"] = reader.names("subjects")
        fields["trigger"] = reader.enum("trigger", _OVERLAY_TRIGGERS)
    return _finish(kind, reader, fields)


def _map_policy_run(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    reader = merge_payload(source)
    legacy_uuids = _byte_order(reader, legacy_uuids)
    tenant = reader.require_text("tenantId")
    _check_schema(reader, PolicyRunJob)
    own_id = reader.fields.get("_id")
    mapped_id = map_own_id(reader, tenant, legacy_uuids)
    word = reader.enum("status", _RUN_STATUSES)
    fields = repair_run_state(reader, created_by_id=objectid_time(own_id), word=word)
    run_id = reader.text("runId")
    if run_id is None:
        run_id = f"run:{mapped_id.id}"
        reader.note_change("runId", "made of the id")
    if reader.number("priorityRank") is not None:
        reader.note_change("priorityRank", "left out, for the priority tells it")
    fields.update(
        id=mapped_id.id,
        tenant_id=tenant,
        run_id=run_id,
        policy_id=reader.require_text("policyId"),
        policy_version=reader.number("policyVersion"),
        mode=PolicyRunMode.parse(reader.enum("mode", _MODES)),
        priority=PolicyRunPriority.parse(reader.enum("priority", _PRIORITIES, "normal")),
        requested_by=reader.text("requestedBy"),
        correlation_id=reader.text("correlationId"),
        inputs=_map_inputs(reader),
    )
    return _finish(PolicyRunJob, reader, fields)


def _map_inputs(reader: FieldReader) -> PolicyRunInputs:
    if reader.fields.get("inputs") == []:  # inputs are no dictionary, which an empty array may be
        reader.reject("inputs", "a document", [])
    fields = reader.document("inputs")
    inputs = FieldReader(fields, reader.changes, reader.preserved, "inputs.", reader.legacy_uuids)
    accept_dotnet_names(inputs)
    flag = inputs.flag("captureExplain")
    values = {
        "sbom_set": inputs.names("sbomSet"),
        "advisory_cursor": inputs.time("advisoryCursor"),
        "vex_cursor": inputs.time("vexCursor"),
        "environment": inputs.json("environment"),
        "capture_explain": bool(flag),
    }
    inputs.preserve_unknown()
    return _validate(PolicyRunInputs, values, "inputs.")


def _map_graph_job_event(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    return _map_event(GraphJobEvent, GraphJobStatus, _GRAPH_STATUSES, source, legacy_uuids)


def _map_policy_run_event(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    # Not "running": an event does not show whether the run was dispatching or submitted.
    return _map_event(PolicyRunEvent, PolicyRunStatus, _RUN_EVENT_STATUSES, source, legacy_uuids)


def _map_event(
    kind: type[GraphJobEvent | PolicyRunEvent],
    statuses: type[StatusEnum],
    words: EnumWords,
    source: Mapping[str, Any],
    legacy_uuids: LegacyUuids,
) -> Mapped:
    reader = FieldReader(dict(source))
    accept_dotnet_names(reader)
    inner = reader.fields.get("payload")
    if isinstance(inner, Mapping) and {"jobId", "payload"} <= {to_camel_case(name) for name in inner}:
        reader = merge_payload(source)
    elif isinstance(inner, Mapping):
        for name in ("tenantId", "jobId", "status", "createdAt"):
            value = next((item for key, item in inner.items() if item is not None and to_camel_case(key) == name), None)
            if reader.fields.get(name) is None and value is not None:
                reader.fields[name] = value
                reader.note_change(name, "taken from payload")
    legacy_uuids = _byte_order(reader, legacy_uuids)
    tenant = reader.require_text("tenantId")
    own_id = reader.fields.get("_id")
    number = _event_id(reader, legacy_uuids)
    job_id = _map_reference(reader, "jobId", "legacyJobId", tenant, legacy_uuids)
    if job_id is None:
        reader.reject("jobId", "the id of a job", None)
    fields = {
        "id": number,
        "tenant_id": tenant,
        "job_id": job_id,
        "status": statuses.parse(reader.enum("status", words)),
        "created_at": repair_event_time(reader, objectid_time(own_id)),
    }
    payload = reader.json("payload")
    reader.preserve_unknown("payload")
    fields["payload"] = dict(sorted(reader.with_preserved(payload, "payload").items()))
    return Mapped(_validate(kind, fields), tuple(reader.changes))


def _event_id(reader: FieldReader, legacy_uuids: LegacyUuids) -> int | None:
    """Return the number of an event, or None, and preserve ids of other types: the database numbers such events."""
    ids = {name: reader.fields.pop(name, None) for name in ("_id", "id")}
    if ids["_id"] is None and ids["id"] is None:
        raise FieldRejected("_id", "is missing")
    numbers = [value for value in ids.values() if type(value) in (int, Int64)]
    for name, value in ids.items():
        if value is None or type(value) in (int, Int64):
            continue
        _, text, kind = parse_id(value, name, legacy_uuids)
        reader.preserve("legacyId", text, "payload")
        if kind is not None:
            reader.preserve("legacyIdType", kind, "payload")
        reader.note_change("id", "kept in payload")
    if not numbers:
        return None
    if numbers[0] != numbers[-1] or not 1 <= numbers[0] <= _EVENT_NUMBER_MAX:
        raise FieldRejected("id", "a number must be between 1 and 2^62, and equal to that of _id")
    return int(numbers[0])


def _byte_order(reader: FieldReader, legacy_uuids: LegacyUuids) -> LegacyUuids:
    """Return the byte order that the document names or shows, otherwise the default; it holds for all its fields."""
    if reader.fields.get("legacyUuids") is not None:
        legacy_uuids = cast("LegacyUuids", reader.enum("legacyUuids", _BYTE_ORDERS))
    reader.legacy_uuids = find_byte_order(reader.fields.get("_id"), reader.fields.get("id"), legacy_uuids)
    return reader.legacy_uuids


def _map_reference(reader: FieldReader, field: str, preserved_name: str, tenant: str, legacy_uuids: LegacyUuids) -> Any:
    value = reader.fields.pop(field, None)
    if value is None or value == "":
        if value is not None:
            reader.note_change(field, "empty text left out")
        return None
    return preserve_legacy_id(reader, field, map_id(value, field, tenant, legacy_uuids), preserved_name).id


def _job_type(reader: FieldReader) -> type[GraphBuildJob | GraphOverlayJob]:
    """Return the type of a job by its `kind`, `type`, `overlayKind` and `schemaVersion`.

    Raises:
        FieldRejected: all are missing, or two contradict one another.
    """
    kind, other = _read_type(reader, "kind"), _read_type(reader, "type")
    overlay = None if reader.fields.get("overlayKind") is None else "overlay"
    schema = reader.fields.get("schemaVersion")
    sources = (kind, other, overlay, _KINDS_OF_SCHEMAS.get(schema) if type(schema) is str else None)
    words = {*sources}
    words.discard(None)
    if len(words) != 1:
        names = ", ".join(name for name, word in zip(_KIND_FIELDS, sources, strict=True) if word is not None)
        problem = f"{names} contradict one another" if words else "no field shows whether it is build or overlay"
        raise FieldRejected("kind", problem)
    if kind is None and other is None:
        reader.note_change("kind", "taken from " + ("schemaVersion" if overlay is None else "overlayKind"))
    job_type: type[GraphBuildJob | GraphOverlayJob] = GraphBuildJob if "build" in words else GraphOverlayJob
    _check_schema(reader, job_type)
    return job_type


def _read_type(reader: FieldReader, name: str) -> str | None:
    value = reader.fields.get(name)
    if value is None:
        reader.fields.pop(name, None)
        return None
    if type(value) is str and not value.isdecimal():
        return reader.enum(name, _KINDS)
    code = reader.number(name)
    if code in (0, 1):
        return str(GraphJobType.from_code(code))
    return reader.reject(name, "build, overlay, 0 or 1", value)


def _check_schema(reader: FieldReader, kind: type[FrozenModel]) -> None:
    version = reader.fields.pop("schemaVersion", None)
    if version is None:
        reader.note_change("schemaVersion", "was missing")
    elif type(version) is not str or version != _SCHEMAS[kind]:
        reader.reject("schemaVersion", f"'{_SCHEMAS[kind]}'", version)


def _finish(kind: type[GraphBuildJob | GraphOverlayJob | PolicyRunJob], reader: FieldReader, fields: Any) -> Mapped:
    metadata = reader.metadata()
    reader.preserve_unknown()
    fields["metadata"] = reader.with_preserved(metadata)
    return Mapped(_validate(kind, fields), tuple(reader.changes))


def _validate(kind: type[V], fields: Mapping[str, Any], prefix: str = "") -> V:
    try:
        # The constructor copies keywords twice. This is the same validation.
        value: V = kind.__pydantic_validator__.validate_python(fields)
    except ValidationError as error:
        field, problem = from_validation_error(error).problems[0]
        name = field.partition(".")[0]
        rejected = FieldRejected(
            f"{prefix}{to_camel(name) or 'status'}",
            f"{problem}; found {describe(fields.get(name))}" if name else problem,
        )
    else:
        return value
    raise rejected


_MAPPERS: Final[Mapping[str, Callable[[Mapping[str, Any], LegacyUuids], Mapped]]] = MappingProxyType(
    {JOBS: _map_graph_job, RUNS: _map_policy_run, EVENTS: _map_graph_job_event, RUN_EVENTS: _map_policy_run_event}
)
