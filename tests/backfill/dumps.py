"""Realistic MongoDB dumps, encoded by pymongo. Each document has its expected outcome.

The same seed generates the same documents. A duplicate follows the document with the same id.
"""

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import bson
from bson import Decimal128, Int64, ObjectId, json_util
from bson.binary import Binary, UuidRepresentation
from bson.datetime_ms import DatetimeMS

JOBS: Final = "graph_jobs"
RUNS: Final = "policy_runs"
EVENTS: Final = "graph_job_events"

FILE_FORMATS: Final = (
    "bson",
    "bson.gz",
    "jsonl",
    "jsonl.gz",
    "json",
    "json.gz",
    "array.json",
    "array.json.gz",
    "pretty.json",
)
"""File formats of a collection: `json` is canonical and `jsonl` relaxed, one per line; `pretty` has several lines."""

FROM: Final = datetime(2024, 1, 1, tzinfo=UTC)
HUGE_SIZE: Final = 16 * 1024 * 1024


class Outcome(StrEnum):
    """The outcome of mapping a document."""

    CLEAN = "clean"
    REPAIRED = "repaired"
    REJECTED = "rejected"


class Repair(StrEnum):
    """Repairs. None of them rejects a document."""

    OBJECT_ID = "an ObjectId becomes a UUID"
    TEXT_ID = "an id of another form becomes a UUID"
    OLD_WORD = "an old word of a status"
    NO_START = "a running job without startedAt"


class Defect(StrEnum):
    """Defects that reject a document."""

    NO_TENANT = "the tenant is missing"
    UNKNOWN_STATUS = "an unknown status"
    WRONG_DIGEST = "an invalid digest"
    DUPLICATE_ID = "another document has the same _id"
    EQUIVALENT_ID = "another document's id maps to the same UUID"
    NUL = "text with a NUL"
    NAN = "not a number"
    DECIMAL = "a decimal fraction where a whole number belongs"
    FAR_DATE = "a date past the year 9999"
    HUGE = "a document of 16 MB"
    ORPHAN = "an event without its job"


@dataclass(frozen=True, slots=True)
class GeneratedDocument:
    """A document with its expected outcome.

    Attributes:
        collection: its collection.
        document: the document in MongoDB.
        outcome: the expected outcome.
        causes: the repairs, or the defect.
        tenant: its tenant.
        id: the UUID of the document; None if it is derived from a legacy id.
        fields: the expected fields in camelCase, without derived ids and unchanged metadata.
    """

    collection: str
    document: dict[str, Any]
    outcome: Outcome
    causes: tuple[Repair | Defect, ...]
    tenant: str
    id: UUID | None
    fields: dict[str, Any]


class DumpGenerator:
    """Generates documents.

    Args:
        seed: seed of the random numbers.
        dirty: percentage of documents with a defect.
        tenants: number of tenants.
        legacy_uuids: byte order of UUIDs of the old binary subtype: csharp, java or python.
    """

    def __init__(self, seed: int = 0, *, dirty: float = 2.0, tenants: int = 5, legacy_uuids: str = "csharp") -> None:
        self._random = Random(seed)  # noqa: S311  # not for secrets
        self._dirty = dirty / 100
        self._tenants = tuple(f"tenant-{number}" for number in range(tenants))
        self._legacy = int(getattr(UuidRepresentation, f"{legacy_uuids.upper()}_LEGACY"))
        self._count = 0
        self._referred: list[GeneratedDocument] = []

    def jobs(self, count: int) -> Iterator[GeneratedDocument]:
        """Generate build and overlay jobs, and duplicates of some."""
        for _ in range(count):
            generated = self._job()
            if len(self._referred) < 10_000 and generated.outcome is not Outcome.REJECTED:
                self._referred.append(generated)
            yield generated
            if self._random.random() < self._dirty / 4:
                yield self._duplicate(generated)

    def runs(self, count: int) -> Iterator[GeneratedDocument]:
        """Generate policy runs."""
        for _ in range(count):
            yield self._run()

    def events(self, count: int) -> Iterator[GeneratedDocument]:
        """Generate events of the jobs that were generated before."""
        for _ in range(count):
            yield self._event()

    def huge(self) -> GeneratedDocument:
        """Generate a job of 16 MB, which MongoDB stores and the mapping rejects."""
        generated = self._job(clean=True)
        document = {**generated.document, "padding": ""}
        document["padding"] = "x" * (HUGE_SIZE - len(bson.encode(document)))
        return GeneratedDocument(
            JOBS, document, Outcome.REJECTED, (Defect.HUGE,), generated.tenant, generated.id, generated.fields
        )

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def _time(self) -> datetime:
        return FROM + timedelta(milliseconds=self._random.randrange(60_000_000_000))

    def _job(self, *, clean: bool = False) -> GeneratedDocument:
        random = self._random
        self._count += 1
        tenant = random.choice(self._tenants)
        build = random.random() < 0.6
        status = random.choices(("queued", "running", "completed", "failed", "canceled"), (20, 5, 55, 10, 10))[0]
        created = self._time()
        fields: dict[str, Any] = {
            "tenantId": tenant,
            "status": status,
            "attempts": 0 if status == "queued" else random.randint(1, 3),
            "correlationId": f"correlation-{random.randrange(1000)}",
            "createdAt": created,
            "metadata": {"source": "worker", "attempt-note": "x" * random.randrange(40)},
        }
        fields |= self._build_fields() if build else self._overlay_fields()
        if status != "queued":
            fields["startedAt"] = created + timedelta(seconds=random.randrange(1, 60))
        if status in ("completed", "failed", "canceled"):
            fields["completedAt"] = created + timedelta(seconds=random.randrange(60, 900))
        if status == "failed":
            fields["error"] = "cartographer: the SBOM has no components\nat line 7"
        if build and status == "completed":
            fields["graphSnapshotId"] = f"graph-{random.randrange(10**6)}"
        return self._build(JOBS, tenant, fields, kind=0 if build else 1, clean=clean)

    def _build_fields(self) -> dict[str, Any]:
        number = self._random.randrange(10**6)
        return {
            "sbomId": f"sbom-{number}",
            "sbomVersionId": f"sbom-{number}@{self._random.randrange(9)}",
            "sbomDigest": f"sha256:{self._random.getrandbits(256):064x}",
            "trigger": self._random.choice(("sbom-version", "backfill", "manual")),
        }

    def _overlay_fields(self) -> dict[str, Any]:
        kind = self._random.choice(("policy", "advisory", "vex"))
        return {
            "graphSnapshotId": f"graph-{self._random.randrange(10**6)}",
            "overlayKind": kind,
            "overlayKey": f"{kind}@{self._random.randrange(100)}",
            "subjects": sorted({f"pkg:npm/left-pad@{self._random.randrange(9)}" for _ in range(3)}),
            "trigger": kind,
        }

    def _run(self) -> GeneratedDocument:
        random = self._random
        self._count += 1
        tenant = random.choice(self._tenants)
        status = random.choice(("pending", "submitted", "completed", "failed", "canceled"))
        at = self._time()
        fields: dict[str, Any] = {
            "tenantId": tenant,
            "runId": f"run:{tenant}:{self._count}",
            "policyId": f"P-{random.randrange(50)}",
            "policyVersion": random.randrange(1, 20),
            "mode": random.choice(("full", "simulate")),
            "priority": random.choice(("normal", "high", "emergency")),
            "status": status,
            "queuedAt": at,
            "attempts": 0 if status == "pending" else 1,
            "availableAt": at,
            "createdAt": at,
            "updatedAt": at + timedelta(minutes=5),
            "inputs": {"sbomSet": [], "environment": {"sealed": True, "level": 3}, "captureExplain": False},
            "metadata": {"source": "worker"},
            "cancellationRequested": False,
        }
        if status in ("submitted", "completed"):
            fields["submittedAt"] = at + timedelta(seconds=2)
        if status != "pending":
            fields["lastAttemptAt"] = at + timedelta(seconds=1)
        if status in ("completed", "failed"):
            fields["completedAt"] = at + timedelta(minutes=5)
        if status == "failed":
            fields["lastError"] = "the policy does not compile"
        if status == "canceled":
            fields["canceledAt"] = at + timedelta(minutes=5)
        return self._build(RUNS, tenant, fields, kind=None)

    def _event(self) -> GeneratedDocument:
        random = self._random
        orphan = not self._referred or random.random() < self._dirty
        job = None if orphan else random.choice(self._referred)
        tenant = job.tenant if job else random.choice(self._tenants)
        status = job.fields["status"] if job else "queued"
        job_id = job.document["_id"] if job else str(self._uuid())
        at = self._time()
        document = {
            "_id": ObjectId(random.randbytes(12)),
            "jobId": job_id,
            "tenantId": tenant,
            "status": status,
            "payload": {"from": "queued", "to": status, "attempts": 1, "actor": "worker-1"},
            "createdAt": at,
        }
        outcome, cause = (Outcome.REJECTED, Defect.ORPHAN) if orphan else (Outcome.REPAIRED, Repair.OBJECT_ID)
        fields = {"jobId": job.id if job else None, "tenantId": tenant, "status": status, "createdAt": at}
        return GeneratedDocument(EVENTS, document, outcome, (cause,), tenant, None, fields)

    def _build(
        self, collection: str, tenant: str, fields: dict[str, Any], *, kind: int | None, clean: bool = False
    ) -> GeneratedDocument:
        """Return a document with the fields in a random layout, perhaps with a defect."""
        random = self._random
        mongo_id, uuid, repairs = self._mongo_id(collection, clean=clean)
        body, expected = dict(fields), dict(fields)
        if not clean:
            repairs += self._add_repairs(collection, body, expected)
        if random.random() < 0.2:
            body |= {name: _text_of(value) for name, value in body.items() if isinstance(value, datetime)}
        if random.random() < 0.2:
            body["attempts"] = Int64(body["attempts"])
        defect = None
        if not clean and random.random() < self._dirty:
            defect = self._add_defect(collection, body)
        document: dict[str, Any] = {"_id": mongo_id}
        if kind is not None:
            document |= self._kind_fields(kind)
        if random.random() < 0.4:
            # Old documents have the columns beside the payload.
            document |= {name: body[name] for name in ("tenantId", "status") if name in body}
            document["payload"] = body
        else:
            document |= body
        outcome = Outcome.REJECTED if defect else Outcome.REPAIRED if repairs else Outcome.CLEAN
        return GeneratedDocument(
            collection, document, outcome, (defect,) if defect else repairs, tenant, uuid, expected
        )

    def _kind_fields(self, kind: int) -> dict[str, Any]:
        word = ("build", "overlay")[kind]
        forms: list[dict[str, Any]] = [{"kind": word}, {"type": word}, {"kind": kind}, {"type": kind}]
        # Without a kind, an overlay job is recognised by its overlayKind.
        return self._random.choice([*forms, {}] if kind else forms)

    def _mongo_id(self, collection: str, *, clean: bool) -> tuple[Any, UUID | None, tuple[Repair, ...]]:
        uuid = self._uuid()
        shape = (
            "text"
            if clean
            else self._random.choices(("text", "standard", "legacy", "oid", "named"), (4, 2, 1, 2, 1))[0]
        )
        if shape == "text":
            return str(uuid), uuid, ()
        if shape == "standard":
            return Binary.from_uuid(uuid, UuidRepresentation.STANDARD), uuid, ()
        if shape == "legacy":
            return Binary.from_uuid(uuid, self._legacy), uuid, ()
        if shape == "oid":
            return ObjectId(self._random.randbytes(12)), None, (Repair.OBJECT_ID,)
        return f"{collection}:{self._count}:{self._random.randrange(10**9)}", None, (Repair.TEXT_ID,)

    def _add_repairs(self, collection: str, body: dict[str, Any], expected: dict[str, Any]) -> tuple[Repair, ...]:
        if collection != JOBS:
            return ()
        repairs: tuple[Repair, ...] = ()
        old = {"queued": "pending", "canceled": "cancelled"}.get(body["status"])
        if old and self._random.random() < 0.3:
            body["status"] = old
            repairs += (Repair.OLD_WORD,)
        if body["status"] == "running" and self._random.random() < 0.2:
            del body["startedAt"]
            expected["startedAt"] = expected["createdAt"]
            repairs += (Repair.NO_START,)
        return repairs

    def _add_defect(self, collection: str, body: dict[str, Any]) -> Defect:
        defects = [Defect.NO_TENANT, Defect.UNKNOWN_STATUS, Defect.NUL, Defect.NAN, Defect.DECIMAL, Defect.FAR_DATE]
        defect = self._random.choice([*defects, Defect.WRONG_DIGEST] if "sbomDigest" in body else defects)
        match defect:
            case Defect.NO_TENANT:
                del body["tenantId"]
            case Defect.UNKNOWN_STATUS:
                body["status"] = "sleeping"
            case Defect.NUL:
                body["correlationId"] = "correlation\0-1"
            case Defect.NAN:
                body["attempts"] = float("nan")
            case Defect.DECIMAL:
                body["attempts"] = Decimal128("1.5")
            case Defect.FAR_DATE:
                body["createdAt"] = DatetimeMS(400_000_000_000_000)
            case _:
                body["sbomDigest"] = "sha256:" + "a" * 40
        return defect

    def _duplicate(self, generated: GeneratedDocument) -> GeneratedDocument:
        """Return another job with the same `_id`, or with one that maps to the same UUID."""
        mongo_id = generated.document["_id"]
        equivalent: Any = None
        if isinstance(mongo_id, ObjectId):
            equivalent = str(mongo_id)
        elif generated.id:
            equivalent = str(generated.id).upper() if mongo_id == str(generated.id) else str(generated.id)
        is_equivalent = equivalent is not None and self._random.random() < 0.5
        # Another job, not a copy: a copy is not a duplicate.
        other = self._job(clean=True)
        document = {**other.document, "_id": equivalent if is_equivalent else mongo_id}
        for body in (document, document.get("payload", {})):
            if "tenantId" in body:
                body["tenantId"] = generated.tenant
        defect = Defect.EQUIVALENT_ID if is_equivalent else Defect.DUPLICATE_ID
        causes: tuple[Repair | Defect, ...] = (defect,)
        if generated.outcome is Outcome.REJECTED:
            # The first document is rejected, so this one is imported.
            causes = (
                () if generated.id else (Repair.OBJECT_ID if isinstance(document["_id"], ObjectId) else Repair.TEXT_ID,)
            )
        outcome = Outcome.REJECTED
        if not causes or isinstance(causes[0], Repair):
            outcome = Outcome.REPAIRED if causes else Outcome.CLEAN
        return GeneratedDocument(
            JOBS,
            document,
            outcome,
            causes,
            generated.tenant,
            generated.id,
            {**other.fields, "tenantId": generated.tenant},
        )


def _text_of(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def generate(count: int, seed: int = 0, *, dirty: float = 2.0) -> list[GeneratedDocument]:
    """Generate documents: 50% jobs, 20% policy runs, the rest events."""
    generator = DumpGenerator(seed, dirty=dirty)
    runs, events = count // 5, count - count // 2 - count // 5
    return [*generator.jobs(count // 2), *generator.runs(runs), *generator.events(events)]


def write_files(folder: Path, documents: Iterable[GeneratedDocument], file_format: str = "bson") -> dict[str, Path]:
    """Write each collection to a file of a format. Return the files by collection."""
    folder.mkdir(parents=True, exist_ok=True)
    by_collection: dict[str, list[dict[str, Any]]] = {}
    for generated in documents:
        by_collection.setdefault(generated.collection, []).append(generated.document)
    files = {}
    for collection, contents in by_collection.items():
        suffix = file_format.removeprefix("array.").removeprefix("pretty.")
        files[collection] = folder / f"{collection}.{suffix}"
        files[collection].write_bytes(encode_file(contents, file_format))
    return files


def encode_file(documents: Iterable[dict[str, Any]], file_format: str) -> bytes:
    """Return the content of a file of one of `FILE_FORMATS`."""
    plain = file_format.removesuffix(".gz")
    if plain == "bson":
        content = b"".join([bson.encode(document) for document in documents])
    else:
        canonical = plain == "json"
        options = json_util.CANONICAL_JSON_OPTIONS if canonical else json_util.RELAXED_JSON_OPTIONS
        indent = 2 if plain == "pretty.json" else None
        texts = [json_util.dumps(document, json_options=options, indent=indent) for document in documents]
        joined = ",\n".join(texts)
        content = (f"[{joined}]\n" if plain == "array.json" else "".join([f"{text}\n" for text in texts])).encode()
    return gzip.compress(content, 1, mtime=0) if file_format.endswith(".gz") else content


def truncate(path: Path, at: int) -> None:
    """Cut off a file at a byte."""
    path.write_bytes(path.read_bytes()[:at])


def flip_byte(path: Path, at: int) -> None:
    """Invert the bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
