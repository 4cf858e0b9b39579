"""From one document of MongoDB, as `bson` decodes it, to one of our values: pure, without a clock, a die or I/O.

The same document gives the same value, whatever the order of its keys. What old words or missing pieces allow is
mended and told as a `Change`; what cannot come is `Refused`, with one sentence that never repeats what stood there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, cast, get_args

from bson.code import Code
from bson.dbref import DBRef
from bson.int64 import Int64
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS
from graphjobs.backfill.transform.coercion import parse_time, to_kebab_case, truncate_to_millis
from graphjobs.backfill.transform.diagnostics import FieldChange, FieldRejected, describe, safe_label
from graphjobs.backfill.transform.field_reader import FieldReader
from graphjobs.backfill.transform.legacy_ids import LegacyUuids, map_id, map_own_id, objectid_time, parse_id
from graphjobs.backfill.transform.repair import RUNNING, repair_event_time, repair_job_state, repair_run_state
from graphjobs.core.fields import FrozenModel, from_validation_error
from graphjobs.core.json_values import JSON_DEPTH_MAX
from graphjobs.core.state_machine import StatusEnum
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs, PolicyRunJob
from graphjobs.policy_runs.status import PolicyRunMode, PolicyRunPriority, PolicyRunStatus

V = TypeVar("V", bound=FrozenModel)
MappedValue: TypeAlias = GraphBuildJob | GraphOverlayJob | GraphJobEvent | PolicyRunJob | PolicyRunEvent


@dataclass(frozen=True, slots=True)
class Mapped:
    """A document that comes.

    Attributes:
        value: what it becomes. A graph job carries the document's `updatedAt` as its version, None where it has none;
            an event has an id only where the document's own was a number.
        changes: what was changed on the way, in an order that is the same for each document like it.
    """

    value: MappedValue
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document that cannot come.

    Attributes:
        reason: one sentence, without what stood there.
        field: which field, as documents spell it.
    """

    reason: str
    field: str


def _enum_values(*ours: str, **old: str) -> Mapping[str, str]:
    return MappingProxyType({**{word: word for word in ours}, **old})


_GRAPH_STATUS_OF: Final = {str(each): each for each in GraphJobStatus}
_GRAPH_STATUSES: Final = _enum_values(*GraphJobStatus, pending="queued", cancelled="canceled")
_RUN_EVENT_STATUSES: Final = _enum_values(
    *PolicyRunStatus, queued="pending", succeeded="completed", cancelled="canceled"
)
_RUN_STATUSES: Final = _enum_values(**_RUN_EVENT_STATUSES, running=RUNNING)
_KINDS: Final = _enum_values(*GraphJobType)
_MODES: Final = _enum_values(*PolicyRunMode)
_PRIORITIES: Final = _enum_values(*PolicyRunPriority)
_OVERLAY_KINDS: Final = _enum_values("policy", "advisory", "vex")
_BUILD_TRIGGERS: Final = _enum_values("sbom-version", "backfill", "manual")
_OVERLAY_TRIGGERS: Final = _enum_values("policy", "advisory", "vex", "sbom-version", "manual")
_BYTE_ORDERS: Final = _enum_values(*get_args(LegacyUuids))
_ENUM_FIELDS: Final = frozenset({"kind", "type", "overlayKind", "status", "trigger", "mode", "priority"})
_NUMBERS: Final = (int, Int64, float)
_FLAT: Final = frozenset({str, int, float, bool, datetime, type(None)})
_SCHEMAS: Final[Mapping[type[FrozenModel], str]] = {
    kind: kind.model_fields["schema_version"].default for kind in (GraphBuildJob, GraphOverlayJob, PolicyRunJob)
}
_EVENT_NUMBER_MAX: Final = 2**62
"""The database numbers later events after the highest one, and must not come to its end."""
_KIND_FIELDS: Final = ("kind", "type", "overlayKind", "schemaVersion")
_KINDS_OF_SCHEMAS: Final = {_SCHEMAS[kind]: str(kind.type) for kind in (GraphBuildJob, GraphOverlayJob)}


def map_document(collection: str, document: object, *, legacy_uuids: LegacyUuids = "csharp") -> Mapped | Rejection:
    """Maps one document of `graph_jobs`, `policy_runs`, `graph_job_events` or `policy_run_events`.

    Args:
        collection: where it stood.
        document: a mapping as `bson` decodes it: naive times in UTC, UUIDs as `Binary`, other times as `DatetimeMS`.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have, where the document's own `id` does not tell.

    Raises:
        KeyError: there is no such collection.
    """
    read = _MAPPERS[collection]
    if type(document) is not dict and not isinstance(document, Mapping):
        return Rejection(f"_id: it should be a document, not {describe(document)}", "_id")
    try:
        return read(document, legacy_uuids)
    except FieldRejected as refusal:
        return Rejection(str(refusal), refusal.field)


def _map_graph_job(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    document = _merge_payload(source)
    legacy_uuids = _byte_order(document, legacy_uuids)
    tenant = document.require_text("tenantId")
    kind = _job_type(document)
    own_id = document.fields.get("_id")
    identity = map_own_id(document, tenant, legacy_uuids)
    status = _GRAPH_STATUS_OF[document.enum("status", _GRAPH_STATUSES)]
    fields = repair_job_state(document, created_by_id=objectid_time(own_id), status=status)
    fields["id"] = identity.id
    fields["tenant_id"] = tenant
    fields["correlation_id"] = document.text("correlationId")
    if kind is GraphBuildJob:
        fields["sbom_id"] = document.require_text("sbomId")
        fields["sbom_version_id"] = document.require_text("sbomVersionId")
        fields["sbom_digest"] = document.digest("sbomDigest")
        fields["graph_snapshot_id"] = document.text("graphSnapshotId")
        fields["trigger"] = document.enum("trigger", _BUILD_TRIGGERS)
        fields["cartographer_job_id"] = document.text("cartographerJobId")
    else:
        fields["graph_snapshot_id"] = document.require_text("graphSnapshotId")
        fields["build_job_id"] = _map_reference(document, "buildJobId", "legacyBuildJobId", tenant, legacy_uuids)
        fields["overlay_kind"] = document.enum("overlayKind", _OVERLAY_KINDS)
        fields["overlay_key"] = document.require_text("overlayKey")
        fields["subjects"] = document.names("subjects")
        fields["trigger"] = document.enum("trigger", _OVERLAY_TRIGGERS)
    return _finish(kind, document, fields)


def _map_policy_run(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    document = _merge_payload(source)
    legacy_uuids = _byte_order(document, legacy_uuids)
    tenant = document.require_text("tenantId")
    _check_schema(document, PolicyRunJob)
    own_id = document.fields.get("_id")
    identity = map_own_id(document, tenant, legacy_uuids)
    word = document.enum("status", _RUN_STATUSES)
    fields = repair_run_state(document, created_by_id=objectid_time(own_id), word=word)
    run_id = document.text("runId")
    if run_id is None:
        run_id = f"run:{identity.id}"
        document.note_change("runId", "made of the id")
    if document.number("priorityRank") is not None:
        document.note_change("priorityRank", "left out, for the priority tells it")
    fields.update(
        id=identity.id,
        tenant_id=tenant,
        run_id=run_id,
        policy_id=document.require_text("policyId"),
        policy_version=document.number("policyVersion"),
        mode=PolicyRunMode.parse(document.enum("mode", _MODES)),
        priority=PolicyRunPriority.parse(document.enum("priority", _PRIORITIES, "normal")),
        requested_by=document.text("requestedBy"),
        correlation_id=document.text("correlationId"),
        inputs=_map_inputs(document),
    )
    return _finish(PolicyRunJob, document, fields)


def _map_inputs(document: FieldReader) -> PolicyRunInputs:
    inputs = FieldReader(document.document("inputs"), document.changes, document.preserved, "inputs.")
    flag = inputs.flag("captureExplain")
    fields = {
        "sbom_set": inputs.names("sbomSet"),
        "advisory_cursor": inputs.time("advisoryCursor"),
        "vex_cursor": inputs.time("vexCursor"),
        "environment": inputs.json("environment"),
        "capture_explain": bool(flag),
    }
    inputs.preserve_unknown()
    return _validate(PolicyRunInputs, fields, "inputs.")


def _map_graph_job_event(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    return _map_event(GraphJobEvent, GraphJobStatus, _GRAPH_STATUSES, source, legacy_uuids)


def _map_policy_run_event(source: Mapping[str, Any], legacy_uuids: LegacyUuids) -> Mapped:
    # Without the word "running": nothing in an event tells which of the two that a run may be is meant.
    return _map_event(PolicyRunEvent, PolicyRunStatus, _RUN_EVENT_STATUSES, source, legacy_uuids)


def _map_event(
    kind: type[GraphJobEvent | PolicyRunEvent],
    statuses: type[StatusEnum],
    words: Mapping[str, str],
    source: Mapping[str, Any],
    legacy_uuids: LegacyUuids,
) -> Mapped:
    document = FieldReader(dict(source), [], {})
    inner = document.fields.get("payload")
    if isinstance(inner, Mapping) and "jobId" in inner and "payload" in inner:
        document = _merge_payload(source)
    elif isinstance(inner, Mapping):
        for name in ("tenantId", "jobId", "status", "createdAt"):
            if document.fields.get(name) is None and inner.get(name) is not None:
                document.fields[name] = inner[name]
                document.note_change(name, "taken from payload")
    legacy_uuids = _byte_order(document, legacy_uuids)
    tenant = document.require_text("tenantId")
    own_id = document.fields.get("_id")
    number = _event_id(document, legacy_uuids)
    job_id = _map_reference(document, "jobId", "legacyJobId", tenant, legacy_uuids)
    if job_id is None:
        document.reject("jobId", "the id of a job", None)
    fields = {
        "id": number,
        "tenant_id": tenant,
        "job_id": job_id,
        "status": statuses.parse(document.enum("status", words)),
        "created_at": repair_event_time(document, objectid_time(own_id)),
    }
    payload = document.json("payload")
    document.preserve_unknown("payload")
    fields["payload"] = dict(sorted(document.with_preserved(payload, "payload").items()))
    return Mapped(_validate(kind, fields), tuple(document.changes))


def _event_id(document: FieldReader, legacy_uuids: LegacyUuids) -> int | None:
    """Gives the number an event had, and keeps what it had instead of one: ours are the database's to give."""
    own, named = document.fields.pop("_id", None), document.fields.pop("id", None)
    if own is None and named is None:
        raise FieldRejected("_id", "a document should have one")
    numbers = [value for value in (own, named) if type(value) in (int, Int64)]
    for value, name in ((own, "_id"), (named, "id")):
        if value is None or type(value) in (int, Int64):
            continue
        _, text, kind = parse_id(value, name, legacy_uuids)
        document.preserve("legacyId", text, "payload")
        if kind is not None:
            document.preserve("legacyIdType", kind, "payload")
        document.note_change("id", "kept in payload")
    if not numbers:
        return None
    if numbers[0] != numbers[-1] or not 1 <= numbers[0] <= _EVENT_NUMBER_MAX:
        raise FieldRejected("id", "a number should be from 1 to 2^62, and the same as that of _id")
    return int(numbers[0])


def _byte_order(document: FieldReader, legacy_uuids: LegacyUuids) -> LegacyUuids:
    """Whose byte order its UUIDs of the old subtype have: as the document says itself, if it came from here."""
    if document.fields.get("legacyUuids") is None:
        return legacy_uuids
    return cast("LegacyUuids", document.enum("legacyUuids", _BYTE_ORDERS))


def _map_reference(
    document: FieldReader, field: str, preserved_name: str, tenant: str, legacy_uuids: LegacyUuids
) -> Any:
    value = document.fields.pop(field, None)
    if value is None or value == "":
        if value is not None:
            document.note_change(field, "empty text left out")
        return None
    identity = map_id(value, field, tenant, legacy_uuids)
    code = identity.code
    if code is not None:
        document.note_change(field, code)
        for name, text in identity.preserved(preserved_name).items():
            document.preserve(name, text)
    return identity.id


def _job_type(document: FieldReader) -> type[GraphBuildJob | GraphOverlayJob]:
    """Reads which kind of job it is, of all that tells.

    Raises:
        Refusal: nothing tells, or two contradict one another.
    """
    kind, other = _read_type(document, "kind"), _read_type(document, "type")
    overlay = None if document.fields.get("overlayKind") is None else "overlay"
    schema = document.fields.get("schemaVersion")
    told = (kind, other, overlay, _KINDS_OF_SCHEMAS.get(schema) if type(schema) is str else None)
    words = {*told}
    words.discard(None)
    if len(words) != 1:
        names = ", ".join(name for name, word in zip(_KIND_FIELDS, told, strict=True) if word is not None)
        raise FieldRejected(
            "kind", f"{names} contradict one another" if words else "nothing tells whether build or overlay"
        )
    if kind is None and other is None:
        document.note_change("kind", "told by " + ("schemaVersion" if overlay is None else "overlayKind"))
    found_kind: type[GraphBuildJob | GraphOverlayJob] = GraphBuildJob if "build" in words else GraphOverlayJob
    _check_schema(document, found_kind)
    return found_kind


def _read_type(document: FieldReader, name: str) -> str | None:
    value = document.fields.get(name)
    if value is None:
        document.fields.pop(name, None)
        return None
    if type(value) is str and not value.isdecimal():
        return document.enum(name, _KINDS)
    code = document.number(name)
    if code in (0, 1):
        return str(GraphJobType.from_code(code))
    return document.reject(name, "build, overlay, 0 or 1", value)


def _check_schema(document: FieldReader, kind: type[FrozenModel]) -> None:
    version = document.fields.pop("schemaVersion", None)
    if version is None:
        document.note_change("schemaVersion", "was missing")
    elif type(version) is not str or version != _SCHEMAS[kind]:
        document.reject("schemaVersion", f"'{_SCHEMAS[kind]}'", version)


def _finish(kind: type[GraphBuildJob | GraphOverlayJob | PolicyRunJob], document: FieldReader, fields: Any) -> Mapped:
    metadata = document.metadata()
    document.preserve_unknown()
    fields["metadata"] = document.with_preserved(metadata)
    return Mapped(_validate(kind, fields), tuple(document.changes))


def _validate(kind: type[V], fields: Mapping[str, Any], prefix: str = "") -> V:
    try:
        # Past the making from keywords, which copies them twice; it checks the same.
        value: V = kind.__pydantic_validator__.validate_python(fields)
    except ValidationError as error:
        field, problem = from_validation_error(error).problems[0]
        name = field.partition(".")[0]
        refusal = FieldRejected(
            f"{prefix}{to_camel(name) or 'status'}",
            f"{problem}; found {describe(fields.get(name))}" if name else problem,
        )
    else:
        return value
    raise refusal


def _merge_payload(source: Mapping[str, Any]) -> FieldReader:
    """Lays what stands under `payload` beside what stands inline, which wins where they differ."""
    fields = dict(source)
    inner = fields.pop("payload", None)
    document = FieldReader(fields, [], {})
    if inner is None:
        return document
    if not isinstance(inner, Mapping):
        document.reject("payload", "a document", inner)
    document.fields = {**inner, **fields}
    if len(document.fields) < len(inner) + len(fields):
        for name in sorted(set(inner) & set(fields), key=str):
            _resolve_conflict(document, name, fields[name], inner[name])
    return document


def _resolve_conflict(document: FieldReader, name: str, inline: object, within: object) -> None:
    if within is None or _is_equal(inline, within):
        return
    if inline is None:
        document.fields[name] = within
        return
    if isinstance(inline, datetime) != isinstance(within, datetime):
        ours, theirs = parse_time(inline), parse_time(within)
        if ours is not None and theirs is not None and truncate_to_millis(ours[0]) == truncate_to_millis(theirs[0]):
            # MongoDB cuts its times to milliseconds; the text beside one may tell the same time finer.
            document.fields[name] = within if ours[0] == truncate_to_millis(ours[0]) else inline
            return
    if not (
        name in _ENUM_FIELDS
        and type(inline) is str
        and type(within) is str
        and to_kebab_case(inline) == to_kebab_case(within)
    ):
        document.note_change(safe_label(name), "another one under payload left out")


def _is_equal(one: object, other: object) -> bool:
    if type(one) in _NUMBERS and type(other) in _NUMBERS:
        return one == other
    # What nests deeper, or refers to another document, is refused by whoever reads it: nothing is lost by not looking.
    return type(one) is type(other) and _is_comparable(one, JSON_DEPTH_MAX) and bool(one == other)


def _is_comparable(value: object, levels: int) -> bool:
    """Tells whether a value nests in documents and lists alone, and by no more than so many levels."""
    if type(value) in _FLAT:
        return True
    if isinstance(value, Mapping | list):
        items = value.values() if isinstance(value, Mapping) else value
        return levels > 0 and all(_is_comparable(item, levels - 1) for item in items)
    return not isinstance(value, DBRef | Code)


_MAPPERS: Final[Mapping[str, Callable[[Mapping[str, Any], LegacyUuids], Mapped]]] = MappingProxyType(
    {JOBS: _map_graph_job, RUNS: _map_policy_run, EVENTS: _map_graph_job_event, RUN_EVENTS: _map_policy_run_event}
)
