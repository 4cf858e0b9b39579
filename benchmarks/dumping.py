"""Writer of a dump as mongodump writes it: graph jobs of the old scheduler, one at a time, in constant memory.

Most have the latest format of that scheduler; some have an older one, which the mapping repairs. All are valid.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import bson
from bson.int64 import Int64

_SEED: Final = 20_260_102
_FIRST: Final = datetime(2024, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
_BETWEEN: Final = timedelta(milliseconds=54_321)
_TENANTS: Final = 200
_STATUSES: Final = (*["queued"] * 2, "running", *["completed"] * 14, *["failed"] * 2, "canceled")
_OVERLAY_EACH: Final = 3
_OLD_EACH: Final = 50
_OLD_WORDS: Final = {"queued": "pending", "canceled": "cancelled"}
_OVERLAY_KINDS: Final = ("policy", "advisory", "vex")


def write_dump(folder: Path, number: int) -> Path:
    """Write a number of documents to `graph_jobs.bson` in a new folder, and return the folder."""
    folder.mkdir()
    with (folder / "graph_jobs.bson").open("wb") as file:
        for document in _documents(number):
            file.write(bson.encode(document))
    return folder


def _documents(number: int) -> Iterator[dict[str, Any]]:
    """Yield documents in the order of creation, the same ones in each call."""
    random = Random(_SEED)  # noqa: S311  # test data
    for index in range(number):
        document = _job(random, index)
        yield _in_old_format(document, index) if index % _OLD_EACH == 0 else document


def _job(random: Random, number: int) -> dict[str, Any]:
    status = random.choice(_STATUSES)
    created = _FIRST + number * _BETWEEN
    started, completed = created + timedelta(seconds=3), created + timedelta(seconds=45)
    overlay = number % _OVERLAY_EACH == 0
    document: dict[str, Any] = {
        "_id": str(UUID(int=random.getrandbits(128), version=4)),
        "schemaVersion": f"scheduler.graph-{'overlay' if overlay else 'build'}-job@1",
        "tenantId": f"tenant-{random.randrange(_TENANTS):04}",
        "kind": "overlay" if overlay else "build",
        "status": status,
        "attempts": 0 if status in ("queued", "canceled") else random.randint(1, 2),
        "correlationId": f"upload-{number:012}",
        "createdAt": created,
        "updatedAt": created,
        "metadata": {
            "branch": "main",
            "commit": f"{random.getrandbits(160):040x}",
            "requestedBy": "ci@payments.example.org",
            "scanner": "syft 1.38.0",
        },
    }
    document |= _overlay(random, number) if overlay else _build(random, number, status)
    if status not in ("queued", "canceled"):
        document |= {"startedAt": started, "updatedAt": started}
    if status in ("completed", "failed", "canceled"):
        document |= {"completedAt": completed, "updatedAt": completed}
    if status == "failed":
        document["error"] = "TimeoutError: the registry did not answer within 30 seconds"
    return document


def _build(random: Random, number: int, status: str) -> dict[str, Any]:
    sbom = f"registry.example.org/payments/checkout-{random.randrange(1_000)}"
    fields = {
        "sbomId": sbom,
        "sbomVersionId": f"{sbom}@2024.1.{number}",
        "sbomDigest": f"sha256:{random.getrandbits(256):064x}",
        "trigger": "sbom-version",
    }
    if status not in ("queued", "canceled"):
        fields["cartographerJobId"] = f"cartographer-{number:08}"
    if status == "completed":
        fields["graphSnapshotId"] = f"snapshot-{number:012}"
    return fields


def _overlay(random: Random, number: int) -> dict[str, Any]:
    kind = random.choice(_OVERLAY_KINDS)
    return {
        "graphSnapshotId": f"snapshot-{number:012}",
        "buildJobId": str(UUID(int=random.getrandbits(128), version=4)),
        "overlayKind": kind,
        "overlayKey": f"{kind}@2024.{random.randrange(100)}",
        "subjects": [f"pkg:npm/left-pad@1.{minor}.0" for minor in range(3)],
        "trigger": kind,
    }


def _in_old_format(document: dict[str, Any], number: int) -> dict[str, Any]:
    """Change a document to the older format: another word for its status, wider numbers, the time as text."""
    document["status"] = _OLD_WORDS.get(document["status"], document["status"])
    document["attempts"] = Int64(document["attempts"])
    if number % (2 * _OLD_EACH) == 0:
        document["createdAt"] = document["createdAt"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return document
