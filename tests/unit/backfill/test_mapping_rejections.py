"""Rejected documents: the invalid field, and a reason that never repeats a value."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS

from graphjobs.backfill.transform.mapping import Mapped, Rejection, map_document
from tests.backfill.documents import ABSENT, AT, ID, LATER, build, event, overlay, run

_JOBS, _EVENTS, _RUNS = "graph_jobs", "graph_job_events", "policy_runs"
_RUN_EVENTS = "policy_run_events"
_OTHER_ID = "0190a5c8-9999-7abc-8def-0123456789ab"
_LEASE = {"leaseOwner": "dispatcher-1", "leaseExpiresAt": LATER}
_FULL = {str(number): "x" for number in range(64)}


_ROOT = Path(__file__).resolve().parents[3]


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": [value]}
    return value


_CASES: dict[str, tuple[str, Any, str]] = {
    "not a document": (_JOBS, ["a"], "_id"),
    "no tenant": (_JOBS, build(tenantId=ABSENT), "tenantId"),
    "empty tenant": (_JOBS, build(tenantId=""), "tenantId"),
    "tenant with NUL": (_JOBS, build(tenantId="a\0"), "tenantId"),
    "tenant with a lone surrogate and an old id": (_JOBS, build(_id="job-1", tenantId="a\ud800"), "tenantId"),
    "tenant of two lines and an old id": (_JOBS, build(_id="b", tenantId="a\n"), "tenantId"),
    "tenant that is code": (_JOBS, build(tenantId=Code("acme")), "tenantId"),
    "no id": (_JOBS, build(_id=ABSENT), "_id"),
    "id that is a number": (_JOBS, build(_id=5), "_id"),
    "id that is empty": (_JOBS, build(_id=""), "_id"),
    "id with NUL": (_JOBS, build(_id="a\0"), "_id"),
    "id with a lone surrogate": (_JOBS, build(_id="a\udfff"), "_id"),
    "id with a high surrogate": (_JOBS, build(_id="a\ud800"), "_id"),
    "id that is code": (_JOBS, build(_id=Code(ID)), "_id"),
    "id too long to be preserved": (_JOBS, build(_id="a" * 4_097), "_id"),
    "id of 15 bytes": (_JOBS, build(_id=Binary(bytes(15), 4)), "_id"),
    "id of plain bytes": (_JOBS, build(_id=bytes(16)), "_id"),
    "two UUIDs": (_JOBS, build(id=_OTHER_ID), "id"),
    "legacy UUID in no order of id": (_JOBS, build(_id=Binary(bytes(range(16)), 3), id=_OTHER_ID), "id"),
    "no status": (_JOBS, build(status=ABSENT), "status"),
    "unknown status": (_JOBS, build(status="paused"), "status"),
    "status by an unknown number": (_JOBS, build(status=5), "status"),
    "status that is long": (_JOBS, build(status="Q" * 10_000_000), "status"),
    "no field with the kind": (_JOBS, build(kind=ABSENT, schemaVersion=ABSENT), "kind"),
    "unknown kind": (_JOBS, build(kind="merge"), "kind"),
    "unknown code of a kind": (_JOBS, build(kind=2), "kind"),
    "kind that is true": (_JOBS, build(kind=True), "kind"),
    "two kinds": (_JOBS, build(type="overlay"), "kind"),
    "build job with an overlayKind": (_JOBS, build(overlayKind="policy"), "kind"),
    "kind against its schema": (_JOBS, build(kind="overlay", overlayKind="vex"), "kind"),
    "another schema": (_JOBS, build(schemaVersion="scheduler.graph-build-job@2"), "schemaVersion"),
    "a run's schema": (_JOBS, build(schemaVersion="scheduler.policy-run-job@1"), "schemaVersion"),
    "short digest": (_JOBS, build(sbomDigest="sha256:abc"), "sbomDigest"),
    "other digest": (_JOBS, build(sbomDigest="md5:" + "a" * 32), "sbomDigest"),
    "digest with a newline": (_JOBS, build(sbomDigest="sha256:" + "a" * 64 + "\n"), "sbomDigest"),
    "no digest": (_JOBS, build(sbomDigest=ABSENT), "sbomDigest"),
    "no SBOM": (_JOBS, build(sbomId=None), "sbomId"),
    "no version of the SBOM": (_JOBS, build(sbomVersionId=""), "sbomVersionId"),
    "name with a line": (_JOBS, build(sbomId="a\nb"), "sbomId"),
    "name too long": (_JOBS, build(sbomId="a" * 257), "sbomId"),
    "name that is a Regex": (_JOBS, build(correlationId=Regex("a")), "correlationId"),
    "unknown trigger": (_JOBS, build(trigger="cron"), "trigger"),
    "trigger of the other kind": (_JOBS, build(trigger="vex"), "trigger"),
    "no graph": (_JOBS, overlay(graphSnapshotId=""), "graphSnapshotId"),
    "no overlay key": (_JOBS, overlay(overlayKey=ABSENT), "overlayKey"),
    "unknown overlay kind": (_JOBS, overlay(overlayKind="licence"), "overlayKind"),
    "subjects as text": (_JOBS, overlay(subjects="a"), "subjects"),
    "a subject that is a number": (_JOBS, overlay(subjects=["a", 1]), "subjects"),
    "an empty subject": (_JOBS, overlay(subjects=["a", ""]), "subjects"),
    "too many subjects": (_JOBS, overlay(subjects=["a"] * 1_001), "subjects"),
    "build job that is a number": (_JOBS, overlay(buildJobId=5), "buildJobId"),
    "build job by reference": (_JOBS, overlay(buildJobId=DBRef("graph_jobs", ID)), "buildJobId"),
    "attempts below 0": (_JOBS, build(attempts=-1), "attempts"),
    "too many attempts": (_JOBS, build(attempts=Int64(100_000)), "attempts"),
    "attempts with a fraction": (_JOBS, build(attempts=1.5), "attempts"),
    "attempts that are NaN": (_JOBS, build(attempts=float("nan")), "attempts"),
    "endless attempts": (_JOBS, build(attempts=float("inf")), "attempts"),
    "attempts as a large decimal": (_JOBS, build(attempts=Decimal128("1E+6000")), "attempts"),
    "attempts as a decimal with a fraction": (_JOBS, build(attempts=Decimal128("1.5")), "attempts"),
    "attempts as a decimal NaN": (_JOBS, build(attempts=Decimal128("sNaN")), "attempts"),
    "attempts that are true": (_JOBS, build(attempts=True), "attempts"),
    "attempts as other text": (_JOBS, build(attempts=" 1"), "attempts"),
    "no time at all": (_JOBS, build(createdAt=ABSENT), "createdAt"),
    "time past 9999": (_JOBS, build(createdAt=DatetimeMS(2**60)), "createdAt"),
    "time before 1": (_JOBS, build(updatedAt=DatetimeMS(-(2**60))), "updatedAt"),
    "time as other text": (_JOBS, build(createdAt="yesterday"), "createdAt"),
    "time of no calendar day": (_JOBS, build(createdAt="2024-02-30T00:00:00Z"), "createdAt"),
    "time past 9999 in UTC": (_JOBS, build(startedAt="9999-12-31T23:00:00-02:00"), "startedAt"),
    "time as a number": (_JOBS, build(startedAt=1_700_000_000), "startedAt"),
    "time as a Timestamp": (_JOBS, build(completedAt=Timestamp(1, 1)), "completedAt"),
    "queued with completedAt": (_JOBS, build(completedAt=AT), "status"),
    "error that is a document": (_JOBS, build(error={"a": "b"}), "error"),
    "error without space in the metadata": (
        _JOBS,
        build(status="completed", attempts=1, startedAt=AT, completedAt=AT, error="late", metadata=_FULL),
        "metadata",
    ),
    "metadata with NaN": (_JOBS, build(metadata={"a": float("nan")}), "metadata"),
    "metadata that is text": (_JOBS, build(metadata="a"), "metadata"),
    "metadata with NUL": (_JOBS, build(metadata={"a": "\0"}), "metadata"),
    "metadata that nests": (_JOBS, build(metadata=_nested(5_000)), "metadata"),
    "too much metadata": (_JOBS, build(metadata={**_FULL, "a": "b"}), "metadata"),
    "no space for the legacy id": (_JOBS, build(_id="job-1", metadata=_FULL), "metadata"),
    "another legacyId": (_JOBS, build(_id="job-1", metadata={"legacyId": "job-2"}), "metadata"),
    "payload that is text": (_JOBS, build(payload="{}"), "payload"),
    "payload that is a list": (_JOBS, build(payload=[]), "payload"),
    "unknown infinite number": (_JOBS, build(retries=float("inf")), "retries"),
    "unknown field as the tag of the quarantine": (_JOBS, build(_quarantine={"id": "a"}), "_quarantine"),
    "unknown document": (_JOBS, build(extra=_nested(5_000)), "extra"),
    "unknown field under payload": (_JOBS, build(payload={"x": MinKey()}), "x"),
    "unknown field with NUL": (_JOBS, build(note="a\0"), "metadata"),
    "too many unknown fields": (_JOBS, build(**{f"x{number}": None for number in range(1_001)}), "metadata"),
    "event without a job": (_EVENTS, event(jobId=ABSENT), "jobId"),
    "event with an empty job": (_EVENTS, event(jobId=""), "jobId"),
    "event without an id": (_EVENTS, event(_id=ABSENT), "_id"),
    "event with id 0": (_EVENTS, event(_id=0), "id"),
    "event with two numbers": (_EVENTS, event(id=8), "id"),
    "event with two old ids": (_EVENTS, event(_id="a", id="b"), "payload"),
    "event without a time": (_EVENTS, event(createdAt=ABSENT), "createdAt"),
    "event with NaN": (_EVENTS, event(payload={"a": float("nan")}), "payload"),
    "event with a decimal": (_EVENTS, event(payload={"a": [Decimal128("1")]}), "payload"),
    "event with NUL": (_EVENTS, event(payload={"a": "\0"}), "payload"),
    "event with a large number": (_EVENTS, event(payload={"a": 2**63}), "payload"),
    "event with a time past 9999": (_EVENTS, event(payload={"a": DatetimeMS(2**60)}), "payload"),
    "event that nests": (_EVENTS, event(payload=_nested(5_000)), "payload"),
    "event of 33 levels": (_EVENTS, event(payload=_nested(17)), "payload"),
    "event of many items": (_EVENTS, event(payload={"a": [0] * 70_000}), "payload"),
    "event with much text": (_EVENTS, event(payload={"a": "x" * 70_000}), "payload"),
    "event that is text": (_EVENTS, event(payload="a"), "payload"),
    "event payload with another legacyId": (_EVENTS, event(_id="a", payload={"legacyId": 5}), "payload"),
    "event of text that is not an object": (_EVENTS, event(payload="[1]"), "payload"),
    "event of text that nests": (_EVENTS, event(payload='{"a":' * 100_000), "payload"),
    "event of text with NaN": (_EVENTS, event(payload='{"a": NaN}'), "payload"),
    "event of text with half a character": (_EVENTS, event(payload='{"a": "\\ud800"}'), "payload"),
    "event of very much text": (_EVENTS, event(payload='{"a": 1}' + " " * 1_048_576), "payload"),
    "event of a run that was running": (_RUN_EVENTS, event(status="running"), "status"),
    "event of a run with a job's word": (_RUN_EVENTS, event(status="leased"), "status"),
    "unknown byte order": (_RUNS, run(legacyUuids="ruby"), "legacyUuids"),
    "event with an unknown decimal": (_EVENTS, event(weight=Decimal128("1.5")), "weight"),
    "no policy": (_RUNS, run(policyId=ABSENT), "policyId"),
    "no mode": (_RUNS, run(mode=ABSENT), "mode"),
    "mode by an unknown number": (_RUNS, run(mode=3), "mode"),
    "incremental without SBOMs": (_RUNS, run(mode="incremental"), "status"),
    "unknown priority": (_RUNS, run(priority="urgent"), "priority"),
    "a job's schema": (_RUNS, run(schemaVersion="scheduler.graph-build-job@1"), "schemaVersion"),
    "running without lease or submission": (_RUNS, run(status="running"), "status"),
    "running with lease and submission": (_RUNS, run(**_LEASE, status="running", submittedAt=AT), "status"),
    "pending with completedAt": (_RUNS, run(completedAt=AT), "status"),
    "submitted with canceledAt": (_RUNS, run(status="submitted", submittedAt=AT, canceledAt=AT), "status"),
    "cancellation time without a request": (
        _RUNS,
        run(cancellationRequested=False, cancellationRequestedAt=AT),
        "status",
    ),
    "cancellation request as text": (_RUNS, run(cancellationRequested="yes"), "cancellationRequested"),
    "time outside the table's range": (_RUNS, run(queuedAt=datetime(1, 1, 1, tzinfo=UTC)), "queuedAt"),
    "creation time outside the column's range": (_JOBS, build(createdAt=datetime(1, 1, 1, tzinfo=UTC)), "createdAt"),
    "time of an event outside the column's range": (
        _EVENTS,
        event(createdAt=datetime.max.replace(tzinfo=UTC)),
        "createdAt",
    ),
    "attempts twice": (_RUNS, run(attemptCount=1), "attempts"),
    "policy version too large": (_RUNS, run(policyVersion=2**31), "policyVersion"),
    "inputs that are a list": (_RUNS, run(inputs=[]), "inputs"),
    "an SBOM that is a number": (_RUNS, run(inputs={"sbomSet": [Int64(5)]}), "inputs.sbomSet"),
    "an SBOM with NUL": (_RUNS, run(inputs={"sbomSet": ["\0"]}), "inputs.sbomSet"),
    "environment with bytes": (_RUNS, run(inputs={"environment": {"a": b"x"}}), "inputs.environment"),
    "environment with infinity": (_RUNS, run(inputs={"environment": {"a": float("inf")}}), "inputs.environment"),
    "unknown input": (_RUNS, run(inputs={"depth": MinKey()}), "inputs.depth"),
    "no time of a run": (_RUNS, run(createdAt=ABSENT, queuedAt=ABSENT, updatedAt=ABSENT), "createdAt"),
}


@pytest.mark.parametrize(("collection", "document", "field"), _CASES.values(), ids=_CASES)
def test_a_rejection_names_the_field(collection: str, document: Any, field: str) -> None:
    """The reason is one short sentence that begins with the field as documents spell it."""
    rejection = map_document(collection, document)
    assert isinstance(rejection, Rejection), rejection
    assert field == rejection.field
    assert rejection.reason.startswith(f"{field}: ")
    assert len(rejection.reason) < 400


def test_full_metadata_names_the_limit_and_the_entries() -> None:
    """The reason says what must fit in."""
    rejection = map_document(_JOBS, build(_id="job-1", metadata=_FULL))
    reason = "metadata: must have at most 64 entries, including legacyId"
    assert Rejection(reason, "metadata") == rejection


_SECRET = "hunter2 is my password"
_HOLDERS: dict[str, Any] = {
    "text": _SECRET + "\0",
    "a document": {_SECRET + "\0": _SECRET + "\0"},
    "a list": [_SECRET, 5, _SECRET + "\0"],
    "code": Code(_SECRET),
    "a Regex": Regex(_SECRET),
    "bytes": Binary(_SECRET.encode(), 0),
    "a reference": DBRef(_SECRET, _SECRET),
    "a list of keys": [MaxKey(), {_SECRET: MaxKey()}],
}


@pytest.mark.parametrize("holder", _HOLDERS.values(), ids=_HOLDERS)
@pytest.mark.parametrize(
    ("collection", "document"), [(_JOBS, build()), (_JOBS, overlay()), (_EVENTS, event()), (_RUNS, run())]
)
def test_no_text_repeats_a_value(collection: str, document: dict[str, Any], holder: Any) -> None:
    """Reasons and changes go to logs. They contain types, lengths and field names, and no value."""
    more = dict.fromkeys(("note", "metadata", "payload", "error", "subjects", "inputs", "startedAt", "id"))
    for name in {**document, **more}:
        outcome = map_document(collection, {**document, name: holder})
        text = outcome.reason if isinstance(outcome, Rejection) else str(outcome.changes)
        assert "hunter2" not in text


def test_an_unknown_collection_raises() -> None:
    with pytest.raises(KeyError, match="graphs"):
        map_document("graphs", build())


_ALWAYS = {"_id", "tenantId", "status", "createdAt"}
_NEEDED: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "build": (_JOBS, build(), {"sbomId", "sbomVersionId", "sbomDigest", "trigger"}),
    "overlay": (_JOBS, overlay(), {"graphSnapshotId", "overlayKind", "overlayKey", "trigger"}),
    "run": (_RUNS, run(queuedAt=ABSENT, updatedAt=ABSENT), {"policyId", "mode"}),
    "event": (_EVENTS, event(), {"jobId"}),
}


@pytest.mark.parametrize(("collection", "document", "needed"), _NEEDED.values(), ids=_NEEDED)
def test_required_fields_are_documented(collection: str, document: dict[str, Any], needed: set[str]) -> None:
    """Documents without one of these fields are rejected, and docs/backfill.md names them."""
    assert isinstance(map_document(collection, document), Mapped)
    for name in document:
        without = {key: value for key, value in document.items() if key != name}
        outcome = map_document(collection, without)
        assert isinstance(outcome, Rejection) is (name in needed | _ALWAYS), name
    page = (_ROOT / "docs" / "backfill.md").read_text(encoding="utf-8").split("## What a document looks like")[1]
    table = page.split("A status is a word")[0]
    assert set() == {name for name in needed | _ALWAYS if f"`{name}`" not in table}
