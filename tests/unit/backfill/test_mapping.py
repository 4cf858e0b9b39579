"""The mapping of clean documents, and of repaired documents with their changes."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from graphjobs.backfill.transform.mapping import Mapped, map_document
from tests.backfill.documents import ABSENT, AT, ID, JOB_ID, LAST, LATER, build, overlay
from tests.unit.backfill.run_and_event_cases import CLEAN, REPAIRED, Case, preserved

_OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
_MADE_AT = datetime(2012, 10, 17, 21, 13, 27, tzinfo=UTC)
_OLD = ("status", "old word")
_RAISED = ("attempts", "raised to 1")
_MISSING_SCHEMA = ("schemaVersion", "was missing")
_DONE = {"status": "completed", "attempts": 1, "startedAt": LATER, "completedAt": LAST}

_CLEAN: dict[str, dict[str, Any]] = {
    "build job": build(),
    "build job by its schema alone": build(type="build"),
    "overlay job": overlay(buildJobId=JOB_ID, subjects=["a", "b"]),
    "kind by its code": overlay(kind=1),
    "completed build job": build(**_DONE, graphSnapshotId="graph"),
    "queued job that ran before": build(attempts=1, startedAt=LATER),
    "nulls": build(error=None, startedAt=None, metadata=None, payload=None, type=None, updatedAt=None),
    "equal under payload": build(payload={"sbomId": "sbom", "attempts": 0, "createdAt": AT}),
    "the same number under payload": build(payload={"attempts": Int64(0)}),
    "the same word under payload": build(payload={"status": "Queued"}),
}

_REPAIRED: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "pending job": (build(status="pending"), {"status": "queued"}, [_OLD]),
    "cancelled job": (
        build(status="cancelled", completedAt=LAST),
        {"status": "canceled", "completed_at": LAST},
        [_OLD],
    ),
    "words as .NET spells them": (
        build(status="Pending", trigger="SbomVersion", kind="Build"),
        {"status": "queued", "trigger": "sbom-version"},
        [("kind", "old word"), _OLD, ("trigger", "old word")],
    ),
    "kind from overlayKind": (
        overlay(kind=ABSENT, schemaVersion=ABSENT),
        {"schema_version": "scheduler.graph-overlay-job@1"},
        [("kind", "taken from overlayKind"), _MISSING_SCHEMA],
    ),
    "kind from the schema": (build(kind=ABSENT), {"sbom_id": "sbom"}, [("kind", "taken from schemaVersion")]),
    "kind as a float": (build(kind=ABSENT, type=0.0), {"sbom_id": "sbom"}, [("type", "was a float")]),
    "kind as digits": (overlay(kind="1"), {"overlay_key": "licences@1"}, [("kind", "was text")]),
    "no schema": (build(schemaVersion=ABSENT), {"schema_version": "scheduler.graph-build-job@1"}, [_MISSING_SCHEMA]),
    "all but the columns under payload": (
        {"_id": ID, "tenantId": "acme", "kind": 0, "payload": build(_id=ABSENT, kind=ABSENT, tenantId="other")},
        {"tenant_id": "acme", "sbom_id": "sbom", "created_at": AT},
        [("tenantId", "another one under payload left out")],
    ),
    "a null inline, the field under payload": (
        build(correlationId=None, payload={"correlationId": "c"}),
        {"correlation_id": "c"},
        [],
    ),
    "a more precise time under payload": (
        build(payload={"createdAt": "2024-05-06T07:08:09.1234560Z"}),
        {"created_at": AT.replace(microsecond=123456)},
        [],
    ),
    "a less precise time under payload": (
        build(createdAt="2024-05-06T07:08:09.123456Z", payload={"createdAt": AT}),
        {"created_at": AT.replace(microsecond=123456)},
        [],
    ),
    "another time under payload": (
        build(payload={"createdAt": LATER}),
        {"created_at": AT},
        [("createdAt", "another one under payload left out")],
    ),
    "names that differ by case alone": (
        build(correlationId="C-1", payload={"correlationId": "c-1", "tenantId": "Acme"}),
        {"correlation_id": "C-1", "tenant_id": "acme"},
        [("correlationId", "another one under payload left out"), ("tenantId", "another one under payload left out")],
    ),
    "names that look like times": (
        build(correlationId="2024-05-06T07:08:09Z", payload={"correlationId": "2024-05-06T07:08:09.0001Z"}),
        {"correlation_id": "2024-05-06T07:08:09Z"},
        [("correlationId", "another one under payload left out")],
    ),
    "true is not 1": (
        build(attempts=1, payload={"attempts": True}),
        {"attempts": 1},
        [("attempts", "another one under payload left out")],
    ),
    "time as text": (build(createdAt="2024-05-06T09:08:09.123+02:00"), {"created_at": AT}, []),
    "time of another zone": (build(createdAt=AT.astimezone(timezone(timedelta(hours=5)))), {"created_at": AT}, []),
    "time without seconds": (
        build(createdAt="2024-05-06 07:08Z"),
        {"created_at": AT.replace(second=0, microsecond=0)},
        [],
    ),
    "time without an offset": (
        build(createdAt="2024-05-06T07:08:09,123"),
        {"created_at": AT},
        [("createdAt", "taken as UTC")],
    ),
    "time of 7 digits": (
        build(createdAt="2024-05-06T07:08:09.1230001Z"),
        {"created_at": AT},
        [("createdAt", "cut to microseconds")],
    ),
    "naive time, as bson decodes one": (build(createdAt=AT.replace(tzinfo=None)), {"created_at": AT}, []),
    "time as milliseconds": (build(createdAt=DatetimeMS(0)), {"created_at": datetime(1970, 1, 1, tzinfo=UTC)}, []),
    "createdAt from the ObjectId": (
        build(_id=_OBJECT_ID, createdAt=ABSENT),
        {"created_at": _MADE_AT},
        [("id", "made of the old one"), ("createdAt", "taken from _id")],
    ),
    "createdAt from startedAt": (
        build(createdAt=ABSENT, startedAt=AT, updatedAt=LATER),
        {"created_at": AT, "updated_at": LATER},
        [("createdAt", "taken from startedAt")],
    ),
    "running without startedAt": (
        build(status="running", attempts=2, updatedAt=LAST),
        {"started_at": AT, "attempts": 2},
        [("startedAt", "taken from createdAt")],
    ),
    "running at attempt 0": (build(status="running", startedAt=LATER), {"attempts": 1}, [_RAISED]),
    "completed without attempts": (
        build(**{**_DONE, "attempts": ABSENT}),
        {"attempts": 1, "completed_at": LAST},
        [("attempts", "was missing"), _RAISED],
    ),
    "final without completedAt, with updatedAt": (
        build(status="canceled", startedAt=LATER, updatedAt=LAST),
        {"completed_at": LAST},
        [("completedAt", "taken from updatedAt")],
    ),
    "final without completedAt, with startedAt": (
        build(status="canceled", startedAt=LATER),
        {"completed_at": LATER},
        [("completedAt", "taken from startedAt")],
    ),
    "final with createdAt alone": (
        build(status="canceled"),
        {"completed_at": AT},
        [("completedAt", "taken from createdAt")],
    ),
    "failed without an error": (
        build(status="failed", completedAt=LAST, error=""),
        {"error": "no reason was kept"},
        [("error", "empty text left out"), ("error", "a stated reason put in")],
    ),
    "completed with an error": (
        build(**_DONE, error="it was late"),
        {"error": None, "metadata": preserved(error="it was late")},
        [("error", "moved to metadata")],
    ),
    "error with control characters": (
        build(status="failed", completedAt=LAST, error="a\0\r\nb\ud800"),
        {"error": "a\N{REPLACEMENT CHARACTER}\nb?"},
        [("error", "cleaned")],
    ),
    "attempts as a long": (build(attempts=Int64(3)), {"attempts": 3}, [("attempts", "was a 64-bit number")]),
    "attempts as a float": (build(attempts=3.0), {"attempts": 3}, [("attempts", "was a float")]),
    "attempts as text": (build(attempts="3"), {"attempts": 3}, [("attempts", "was text")]),
    "attempts as a decimal": (build(attempts=Decimal128("3.0")), {"attempts": 3}, [("attempts", "was a decimal")]),
    "digest in upper case": (
        build(sbomDigest="sha256:" + "A" * 64),
        {"sbom_digest": "sha256:" + "a" * 64},
        [("sbomDigest", "lower case")],
    ),
    "empty optional text": (
        build(correlationId="", graphSnapshotId=""),
        {"correlation_id": None, "graph_snapshot_id": None},
        [("correlationId", "empty text left out"), ("graphSnapshotId", "empty text left out")],
    ),
    "empty entries of metadata": (
        build(metadata={"a": "", "b": None, "c": "d"}),
        {"metadata": {"c": "d"}},
        [("metadata", "empty text left out")],
    ),
    "unknown fields": (
        build(_t="GraphBuildJob", owner="me", subjects=None, note=""),
        {"metadata": preserved(_t="GraphBuildJob", owner="me")},
        [
            ("_t", "unknown field kept in metadata"),
            ("note", "empty unknown field left out"),
            ("owner", "unknown field kept in metadata"),
            ("subjects", "empty unknown field left out"),
        ],
    ),
    "unknown fields that are not text": (
        build(
            __v=0, _t=["A", "B"], priority=2.5, seen=AT, by={"b": _OBJECT_ID, "a": True}, metadata={"c": "d", "e": 5}
        ),
        {
            "metadata": {
                "c": "d",
                "e": "5",
                **preserved(
                    __v="0",
                    _t='["A", "B"]',
                    by=f'{{"a": true, "b": "{_OBJECT_ID}"}}',
                    priority="2.5",
                    seen='"2024-05-06T07:08:09.123000Z"',
                ),
            }
        },
        [
            ("metadata", "other than text kept as JSON text"),
            *(
                (name, "unknown field kept in metadata as JSON text")
                for name in ("__v", "_t", "by", "priority", "seen")
            ),
        ],
    ),
    "subjects twice": (
        overlay(subjects=["b", "a", "b"]),
        {"subjects": ("a", "b")},
        [("subjects", "sorted, each once")],
    ),
    "no build job": (overlay(buildJobId=""), {"build_job_id": None}, [("buildJobId", "empty text left out")]),
}


_ALL_CLEAN = {**{name: ("graph_jobs", document) for name, document in _CLEAN.items()}, **CLEAN}
_ALL_REPAIRED: dict[str, Case] = {**{name: ("graph_jobs", *case) for name, case in _REPAIRED.items()}, **REPAIRED}


def test_names_of_cases_are_unique() -> None:
    assert len(_CLEAN) + len(CLEAN) + len(_REPAIRED) + len(REPAIRED) == len(_ALL_CLEAN) + len(_ALL_REPAIRED)


@pytest.mark.parametrize(("collection", "document"), _ALL_CLEAN.values(), ids=_ALL_CLEAN)
def test_a_clean_document_is_mapped_without_a_change(collection: str, document: dict[str, Any]) -> None:
    mapped = map_document(collection, document)
    assert isinstance(mapped, Mapped), mapped
    assert () == mapped.changes


@pytest.mark.parametrize(("collection", "document", "fields", "changes"), _ALL_REPAIRED.values(), ids=_ALL_REPAIRED)
def test_a_repair_reports_its_change(
    collection: str, document: dict[str, Any], fields: dict[str, Any], changes: list[tuple[str, str]]
) -> None:
    mapped = map_document(collection, document)
    assert isinstance(mapped, Mapped), mapped
    assert fields == {name: getattr(mapped.value, name) for name in fields}
    assert changes == list(mapped.changes)
