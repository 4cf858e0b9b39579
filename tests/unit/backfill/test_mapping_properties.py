"""Properties of any document: the mapping never raises, is fast and deterministic, and can be reversed."""

import json
import pickle
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import SON, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs.backfill.transform.legacy_ids import restore_mongo_id, restore_reference
from graphjobs.backfill.transform.mapping import Mapped, Rejection, map_document
from tests.backfill.documents import AT, ID, JOB_ID, LAST, LATER, build, event, overlay, run

_JOBS, _EVENTS, _RUNS = "graph_jobs", "graph_job_events", "policy_runs"
_RUN_EVENTS = "policy_run_events"
_BASES = [
    (_JOBS, build()),
    (_JOBS, overlay()),
    (_EVENTS, event()),
    (_RUNS, run()),
    (_RUN_EVENTS, event(status="pending")),
]
_FIELDS = sorted(
    {name for _, base in _BASES for name in base}
    | {"id", "type", "payload", "metadata", "inputs", "error", "lastError", "startedAt", "completedAt", "submittedAt"}
    | {"leaseOwner", "leaseExpiresAt", "cancellationRequested", "cancellationRequestedAt", "canceledAt", "cancelledAt"}
    | {"attemptCount", "priorityRank", "subjects", "buildJobId", "correlationId", "graphSnapshotId", "lastAttemptAt"}
)
_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # with NUL and lone surrogates
_ID = st.binary(min_size=16, max_size=16)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(),
    _TEXT,
    st.sampled_from(["", "pending", "Running", "cancelled", "build", "0", "2024-05-06T07:08:09Z", ID, "sha256:"]),
    st.datetimes(timezones=st.sampled_from([UTC, None])),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.binary(max_size=20),
    st.builds(Binary, _ID, st.sampled_from([0, 3, 4, 5, 128])),
    _ID.map(lambda raw: UUID(bytes=raw)),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.sampled_from(["1", "1.5", "NaN", "sNaN", "-Infinity", "1E+6000", "1E-6000", "-0"]).map(Decimal128),
    st.sampled_from([Regex("a"), Code("a"), Code("a", {"b": 1}), DBRef("a", 1), Timestamp(1, 1), MinKey(), MaxKey()]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_TEXT | st.sampled_from(_FIELDS), inner, max_size=4),
        st.dictionaries(_TEXT, inner, max_size=3).map(SON),
    ),
    max_leaves=10,
)
_EDITS = st.dictionaries(st.sampled_from(_FIELDS) | _TEXT, _VALUES, max_size=6)
_MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_MANY
@given(st.sampled_from(_BASES), _EDITS, st.sampled_from(["python", "java", "csharp"]), st.randoms())
def test_any_document_is_mapped_or_rejected_in_any_key_order(
    base: tuple[str, dict[str, Any]], edits: dict[str, Any], order: Any, random: Any
) -> None:
    """The outcome does not depend on the order of the keys."""
    collection, document = base
    edited = {**document, **edits}
    first = map_document(collection, edited, legacy_uuids=order)
    again = map_document(collection, _shuffled(edited, random), legacy_uuids=order)
    assert isinstance(first, Mapped | Rejection)
    if isinstance(first, Mapped) and isinstance(again, Mapped):
        assert first.changes == again.changes
        assert first.value.to_json() == again.value.to_json()
        assert all(len(field) <= 120 for field, _ in first.changes)
    else:
        assert isinstance(first, Rejection)
        assert isinstance(again, Rejection)
        assert first.field == again.field


def _shuffled(value: Any, random: Any) -> Any:
    """Return the document with its keys in another order on each level."""
    if isinstance(value, dict):
        names = list(value)
        random.shuffle(names)
        return type(value)((name, _shuffled(value[name], random)) for name in names)
    return [_shuffled(item, random) for item in value] if isinstance(value, list) else value


def test_changes_of_a_payload_are_sorted_by_field() -> None:
    """The order of a set of text differs between processes."""
    names = ["tenantId", "sbomId", "sbomVersionId", "correlationId", "createdAt", "attempts", "trigger", "_id"]
    mapped = map_document(_JOBS, build(correlationId="c", payload=dict.fromkeys(names, "other")))
    assert isinstance(mapped, Mapped)
    assert sorted(names) == [field for field, _ in mapped.changes]


@pytest.mark.parametrize(
    ("collection", "document"),
    [
        (_EVENTS, event(payload={"b": {"z": 1, "y": [{"q": 1, "p": 2}]}, "a": 2})),
        (_RUNS, run(inputs={"environment": {"b": {"z": 1, "y": [{"q": 1, "p": 2}]}, "a": 2}})),
    ],
)
def test_nested_json_is_sorted_on_each_level(collection: str, document: dict[str, Any]) -> None:
    """Otherwise equal documents with another order of keys would map to other bytes."""
    mapped = map_document(collection, document)
    assert isinstance(mapped, Mapped)
    assert '{"a":2,"b":{"y":[{"p":2,"q":1}],"z":1}}' in mapped.value.to_json()


@_MANY
@given(_VALUES)
def test_any_other_value_is_rejected(document: Any) -> None:
    """A value that is not a document raises nothing."""
    for collection in (_JOBS, _EVENTS, _RUNS, _RUN_EVENTS):
        assert isinstance(map_document(collection, document), Rejection)


def _deep(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap("x")
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [lambda inner: {"a": inner}, lambda inner: [inner], lambda inner: DBRef("a", inner)],
    ids=["documents", "lists", "references"],
)
@pytest.mark.parametrize(("collection", "document"), _BASES)
def test_deep_nesting_does_not_raise(collection: str, document: dict[str, Any], wrap: Callable[[Any], Any]) -> None:
    """A field of 5,000 levels is handled, also inline and under payload at once, where both are compared."""
    deep, twin = _deep(5_000, wrap), _deep(5_000, wrap)
    for name in [*_FIELDS, "note"]:
        assert isinstance(map_document(collection, {**document, name: deep}), Mapped | Rejection)
        both = {**document, name: deep, "payload": {name: twin, "jobId": JOB_ID, "payload": {}}}
        compared = map_document(collection, both)
        assert isinstance(compared, Mapped | Rejection)
        if name != "payload":
            # The comparison does not matter: such a document is rejected.
            both["payload"][name] = wrap(twin)
            assert isinstance(compared, Rejection)
            assert compared == map_document(collection, both)


@pytest.mark.parametrize(
    "large",
    ["x" * 16_000_000, ["x"] * 2_000_000, {str(number): "" for number in range(1_000_000)}],
    ids=["text", "list", "document"],
)
def test_a_large_field_is_handled_quickly(large: Any) -> None:
    """A document of 16 MB, the limit of MongoDB, takes less than 3 seconds with any field of that size."""
    for collection, document in _BASES:
        for name in ("tenantId", "_id", "status", "error", "metadata", "payload", "subjects", "createdAt", "note"):
            before = time.process_time()
            assert isinstance(map_document(collection, {**document, name: large}), Mapped | Rejection)
            assert time.process_time() - before < 3


def _picks(**fields: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in fields.items()})


_IDS = ["job-1", ID, ID.upper(), ObjectId("507f1f77bcf86cd799439011"), Binary(UUID(ID).bytes, 4), Binary(bytes(16), 3)]
_TIMES = [None, AT, LATER, LAST, "2024-05-06T07:08:09.1234567+02:00"]
_STATE: dict[str, list[Any]] = {
    "_id": _IDS,
    "metadata": [{}, {"a": "b\tc"}],
    "attempts": [0, 2, "3", 4.0],
    "error": [None, "late", "a\0"],
    "updatedAt": _TIMES,
    "startedAt": _TIMES,
    "owner": ["me"],
}
_GRAPH = ["queued", "pending", "running", "completed", "failed", "canceled", "Cancelled"]
_RUN = ["pending", "queued", "dispatching", "submitted", "running", "completed", "succeeded", "failed", "cancelled"]
_MAPPED = st.one_of(
    st.tuples(st.just(_JOBS), _picks(status=_GRAPH, correlationId=["c", ""], **_STATE).map(lambda e: build(**e))),
    st.tuples(
        st.just(_JOBS),
        _picks(status=_GRAPH, buildJobId=_IDS, subjects=[["b", "a"]], **_STATE).map(lambda e: overlay(**e)),
    ),
    st.tuples(
        st.just(_EVENTS),
        _picks(_id=[5, *_IDS], jobId=_IDS, status=_GRAPH, payload=[{}, {"a": [1.5, {"b": None}]}]).map(
            lambda e: event(**e)
        ),
    ),
    st.tuples(
        st.just(_RUNS),
        _picks(
            _id=_IDS,
            status=_RUN,
            leaseOwner=[None, "d"],
            leaseExpiresAt=_TIMES,
            cancellationRequested=[True, False],
            submittedAt=_TIMES,
            lastAttemptAt=_TIMES,
            inputs=[{}, {"sbomSet": ["a"], "environment": {"a": 1}}],
            lastError=[None, "late"],
        ).map(lambda e: run(**e)),
    ),
)


@_MANY
@given(_MAPPED)
def test_an_exported_value_maps_to_the_same_value(case: tuple[str, dict[str, Any]]) -> None:
    """The bytes are equal, and only the ids and the kind report changes."""
    collection, document = case
    first = map_document(collection, document)
    if isinstance(first, Rejection):
        return
    value: Any = first.value
    exported = json.loads(value.to_json())
    exported["_id"] = restore_mongo_id(value) or (value.id if collection == _EVENTS else str(value.id))
    reference = restore_reference(value)
    if reference is not None:
        exported["jobId" if collection == _EVENTS else "buildJobId"] = reference
    again = map_document(collection, _through_bson(exported))
    assert isinstance(again, Mapped), again
    assert value.to_json() == again.value.to_json()
    assert {"_id", "id", "kind", "jobId", "buildJobId"} >= {field for field, _ in again.changes}
    assert value == pickle.loads(pickle.dumps(first)).value  # noqa: S301  # of this test
    assert first == pickle.loads(pickle.dumps(first))  # noqa: S301


def _through_bson(document: dict[str, Any]) -> dict[str, Any]:
    options: CodecOptions[dict[str, Any]] = CodecOptions(
        tz_aware=False, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    return bson.decode(bson.encode(document), options)


def test_rejections_pickle() -> None:
    """They are sent to the process that stores them."""
    rejection = map_document(_JOBS, build(tenantId=5))
    assert rejection == pickle.loads(pickle.dumps(rejection))  # noqa: S301  # of this test


def test_times_out_of_range_are_as_bson_decodes_them() -> None:
    """The rejected value is the type that bson decodes, not a stand-in of the tests."""
    decoded = _through_bson({**build(), "createdAt": DatetimeMS(2**60)})
    assert isinstance(decoded["createdAt"], DatetimeMS)
    rejection = map_document(_JOBS, decoded)
    assert isinstance(rejection, Rejection)
    assert "createdAt: must be a time of the years 0001 to 9999, or its ISO 8601 text, not a time outside" in (
        rejection.reason
    )


def test_the_mapping_uses_no_clock_and_no_random_numbers() -> None:
    """Two mappings at different times are equal, also of a document with only the required fields."""
    minimal = run(updatedAt=None, queuedAt=None, availableAt=None, runId=None)
    first = map_document(_RUNS, minimal)
    time.sleep(0.002)
    assert first == map_document(_RUNS, minimal)
    assert isinstance(first, Mapped)
    assert datetime.now(UTC) > first.value.created_at == AT
