"""Strategies that draw any storable value, including hostile text and unusual metadata."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from hypothesis import assume
from hypothesis import strategies as st

from graphjobs import GraphBuildJob, GraphJobEvent, GraphJobStatus, GraphOverlayJob, InvalidJob, PolicyRunJob
from graphjobs.backfill.transform.legacy_ids import derive_uuid
from graphjobs.core.metadata import METADATA_ENTRIES_MAX
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunInputs
from graphjobs.policy_runs.status import PolicyRunStatus

_UNUSUAL: Final = ["$oid", "$date", "$id", "a.b", "payload", "jobId", "legacy.error", "__proto__", "ﷺ\U0010ffff"]
NAMES: Final = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30) | st.sampled_from(
    _UNUSUAL
)
LINES: Final = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n"), min_size=1, max_size=60
)
TIMES: Final = st.sampled_from(
    [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)]
) | st.datetimes(timezones=st.just(UTC))
STORED_TIMES: Final = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001
UUIDS: Final = st.uuids() | st.sampled_from([UUID(int=0), UUID(int=2**128 - 1)])
JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.sampled_from([2**63 - 1, -(2**63) + 1, 1e300, 5e-324, -0.0, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
_OBJECT_IDS: Final = st.binary(min_size=12, max_size=12).map(bytes.hex)
_KINDS: Final = st.sampled_from(["objectId", "uuid", "uuidPython", "uuidJava", "uuidCsharp", "else"])


@st.composite
def _ids(draw: st.DrawFn, tenant: str) -> tuple[UUID, dict[str, str]]:
    """Draw an id, and entries of a legacy id: its own, that of another job, or nonsense."""
    legacy_id = draw(st.one_of(LINES, _OBJECT_IDS, UUIDS.map(str), UUIDS.map(lambda uuid: str(uuid).upper())))
    uuid = draw(st.one_of(UUIDS, st.just(derive_uuid(tenant, legacy_id))))
    if draw(st.booleans()) and len(legacy_id) == 36:
        uuid = UUID(legacy_id)
    preserved = {
        "legacyId": st.just(legacy_id) | LINES,
        "legacyIdType": _KINDS,
        "legacyMongoId": st.one_of(LINES, _OBJECT_IDS, UUIDS.map(str)),
        "legacyMongoIdOf": st.just(str(uuid)) | UUIDS.map(str),
        "legacyMongoIdType": _KINDS,
    }
    return uuid, draw(st.fixed_dictionaries({}, optional=preserved))


@st.composite
def _reference(draw: st.DrawFn, tenant: str, name: str) -> tuple[UUID, dict[str, str]]:
    uuid, entries = draw(_ids(tenant))
    names = {"legacyId": name, "legacyIdType": f"{name}Type"}
    return uuid, {names[key]: text for key, text in entries.items() if key in names}


def _metadata(draw: st.DrawFn, preserved: dict[str, str]) -> dict[str, str]:
    entries = draw(st.dictionaries(NAMES, LINES, max_size=3))
    if draw(st.integers(0, 9)) == 0:
        entries |= {f"entry-{number}": "x" for number in range(METADATA_ENTRIES_MAX)}
    limit = METADATA_ENTRIES_MAX - len(preserved)
    return {**dict(list(entries.items())[:limit]), **preserved}


def _build_valid(kind: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """Build a value. Fields that violate an invariant are drawn again."""
    try:
        return kind(**fields)
    except InvalidJob:
        assume(False)


@st.composite
def graph_jobs(draw: st.DrawFn) -> GraphBuildJob | GraphOverlayJob:
    """Draw graph jobs of both types and every status."""
    tenant = draw(NAMES)
    uuid, preserved = draw(_ids(tenant))
    status = draw(st.sampled_from(GraphJobStatus))
    ran = status in (GraphJobStatus.RUNNING, GraphJobStatus.COMPLETED)
    fields: dict[str, Any] = {
        "id": uuid,
        "tenant_id": tenant,
        "status": status,
        "attempts": draw(st.integers(int(ran), 99_999)),
        "correlation_id": draw(st.none() | NAMES),
        "created_at": draw(STORED_TIMES),
        "started_at": draw(TIMES if ran else st.none() | TIMES),
        "completed_at": draw(TIMES) if status.is_final else None,
        "updated_at": draw(st.none() | STORED_TIMES),
    }
    if status is not GraphJobStatus.COMPLETED:
        fields["error"] = draw(LINES if status is GraphJobStatus.FAILED else st.none() | LINES)
    if draw(st.booleans()):
        digest = f"sha256:{draw(st.binary(min_size=32, max_size=32)).hex()}"
        fields |= {"sbom_id": draw(NAMES), "sbom_version_id": draw(NAMES), "sbom_digest": digest}
        fields |= {"graph_snapshot_id": draw(st.none() | NAMES), "cartographer_job_id": draw(st.none() | NAMES)}
        fields["trigger"] = draw(st.sampled_from(["sbom-version", "backfill", "manual"]))
        return GraphBuildJob(**fields, metadata=_metadata(draw, preserved))
    if draw(st.booleans()):
        fields["build_job_id"], more = draw(_reference(tenant, "legacyBuildJobId"))
        preserved |= more
    fields |= {"graph_snapshot_id": draw(NAMES), "overlay_key": draw(NAMES), "subjects": draw(st.lists(NAMES))}
    fields["overlay_kind"] = draw(st.sampled_from(["policy", "advisory", "vex"]))
    fields["trigger"] = draw(st.sampled_from(["policy", "advisory", "vex", "sbom-version", "manual"]))
    return GraphOverlayJob(**fields, metadata=_metadata(draw, preserved))


@st.composite
def policy_runs(draw: st.DrawFn) -> PolicyRunJob:
    """Draw policy runs of every status, with and without a cancellation request."""
    tenant = draw(NAMES)
    uuid, preserved = draw(_ids(tenant))
    status = draw(st.sampled_from(PolicyRunStatus))
    leased = status is PolicyRunStatus.DISPATCHING
    submitted = status in (PolicyRunStatus.SUBMITTED, PolicyRunStatus.COMPLETED)
    is_requested = status is not PolicyRunStatus.PENDING and draw(st.booleans())
    perhaps = st.none() | STORED_TIMES
    fields: dict[str, Any] = {
        "id": uuid,
        "tenant_id": tenant,
        "run_id": draw(NAMES),
        "policy_id": draw(NAMES),
        "policy_version": draw(st.none() | st.integers(0, 2**31 - 1)),
        "mode": draw(st.sampled_from(["full", "incremental", "simulate"])),
        "priority": draw(st.sampled_from(["normal", "high", "emergency"])),
        "status": status,
        "attempts": draw(st.integers(int(leased), 99_999)),
        "requested_by": draw(st.none() | NAMES),
        "correlation_id": draw(st.none() | NAMES),
        "last_error": draw(LINES if status is PolicyRunStatus.FAILED else st.none() | LINES),
        "last_attempt_at": draw(STORED_TIMES if leased else perhaps),
        "submitted_at": draw(STORED_TIMES if submitted else perhaps),
        "completed_at": draw(STORED_TIMES) if status in (PolicyRunStatus.COMPLETED, PolicyRunStatus.FAILED) else None,
        "lease_owner": draw(NAMES) if leased else None,
        "lease_expires_at": draw(STORED_TIMES) if leased else None,
        "cancellation_requested": is_requested,
        "cancellation_requested_at": draw(STORED_TIMES) if is_requested else None,
        "cancellation_reason": draw(st.none() | LINES),
        "canceled_at": draw(STORED_TIMES) if status is PolicyRunStatus.CANCELED else None,
        **{name: draw(STORED_TIMES) for name in ("queued_at", "available_at", "created_at", "updated_at")},
        "metadata": _metadata(draw, preserved),
        "inputs": PolicyRunInputs(
            sbom_set=draw(st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
            advisory_cursor=draw(st.none() | TIMES),
            vex_cursor=draw(st.none() | TIMES),
            environment=draw(st.dictionaries(NAMES, JSON, max_size=3)),
            capture_explain=draw(st.booleans()),
        ),
    }
    return PolicyRunJob(**fields)


@st.composite
def events(draw: st.DrawFn, kind: type[GraphJobEvent | PolicyRunEvent]) -> GraphJobEvent | PolicyRunEvent:
    """Draw events of either log. Entries of legacy ids may be any JSON."""
    tenant = draw(NAMES)
    _, own = draw(_ids(tenant))
    job_id, referred = draw(_reference(tenant, "legacyJobId"))
    preserved: dict[str, Any] = {**own, **referred}
    if preserved and draw(st.integers(0, 9)) == 0:
        preserved[draw(st.sampled_from(sorted(preserved)))] = draw(JSON)
    value: GraphJobEvent | PolicyRunEvent = _build_valid(
        kind,
        {
            "id": draw(st.integers(1, 2**62) | st.just(2**62)),
            "job_id": job_id,
            "tenant_id": tenant,
            "status": draw(st.sampled_from(GraphJobStatus if kind is GraphJobEvent else PolicyRunStatus)),
            "payload": {**draw(st.dictionaries(NAMES, JSON, max_size=4)), **preserved},
            "created_at": draw(STORED_TIMES),
        },
    )
    return value
