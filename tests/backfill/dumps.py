"""Realistic dumps of the old MongoDB, written by pymongo's own bson; each document knows what it should become.

The same seed gives the same documents. A twin, which meets another under one id, follows the other one.
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
"""How a collection may be written: `json` is canonical, `jsonl` relaxed, a line each; `pretty` over several lines."""

FROM: Final = datetime(2024, 1, 1, tzinfo=UTC)
HUGE_SIZE: Final = 16 * 1024 * 1024


class Outcome(StrEnum):
    """What becomes of a document."""

    CLEAN = "clean"
    REPAIRED = "mended"
    REJECTED = "refused"


class Repair(StrEnum):
    """What is changed on the way; none of it keeps a document out."""

    OBJECT_ID = "an ObjectId becomes a UUID"
    TEXT_ID = "an id that is no UUID becomes one"
    OLD_WORD = "an old word of a status"
    NO_START = "a running job without startedAt"


class Defect(StrEnum):
    """Why a document cannot come."""

    NO_TENANT = "the tenant is missing"
    UNKNOWN_STATUS = "a status nobody knows"
    WRONG_DIGEST = "a digest that is none"
    DUPLICATE_ID = "another document has the same _id"
    EQUIVALENT_ID = "another document's id becomes the same"
    NUL = "text with a NUL"
    NAN = "a number that is none"
    DECIMAL = "a decimal fraction where a whole number belongs"
    FAR_DATE = "a date past the year 9999"
    HUGE = "a document of 16 MB"
    ORPHAN = "an event without its job"


@dataclass(frozen=True, slots=True)
class GeneratedDocument:
    """A document, and what it should become.

    Attributes:
        collection: where it stands.
        document: as it stands in MongoDB.
        fate: what becomes of it.
        why: what is mended, or why it is refused.
        tenant: whose it is.
        id: the UUID it keeps; None where one is made of its old id.
        fields: what its fields come to, in camelCase, but for ids that are made and for unchanged metadata.
    """

    collection: str
    document: dict[str, Any]
    outcome: Outcome
    causes: tuple[Repair | Defect, ...]
    tenant: str
    id: UUID | None
    fields: dict[str, Any]


class DumpGenerator:
    """Makes documents.

    Args:
        seed: what they follow from.
        dirty: how many of a hundred are to be refused.
        tenants: how many tenants there are.
        legacy_uuids: the driver whose order of bytes UUIDs of the old binary form have: csharp, java or python.
    """

    def __init__(self, seed: int = 0, *, dirty: float = 2.0, tenants: int = 5, legacy_uuids: str = "csharp") -> None:
        self._random = Random(seed)  # noqa: S311  # nothing secret
        self._dirty = dirty / 100
        self._tenants = tuple(f"tenant-{number}" for number in range(tenants))
        self._legacy = int(getattr(UuidRepresentation, f"{legacy_uuids.upper()}_LEGACY"))
        self._count = 0
        self._referred: list[GeneratedDocument] = []

    def jobs(self, count: int) -> Iterator[GeneratedDocument]:
        """Gives build and overlay jobs, twins included."""
        for _ in range(count):
            made = self._job()
            if len(self._referred) < 10_000 and made.outcome is not Outcome.REJECTED:
                self._referred.append(made)
            yield made
            if self._random.random() < self._dirty / 4:
                yield self._twin(made)

    def runs(self, count: int) -> Iterator[GeneratedDocument]:
        """Gives policy runs."""
        for _ in range(count):
            yield self._run()

    def events(self, count: int) -> Iterator[GeneratedDocument]:
        """Gives events of jobs that were given before."""
        for _ in range(count):
            yield self._event()

    def huge(self) -> GeneratedDocument:
        """Gives a job of just 16 MB, which MongoDB takes and nothing here does."""
        made = self._job(clean=True)
        document = {**made.document, "padding": ""}
        document["padding"] = "x" * (HUGE_SIZE - len(bson.encode(document)))
        return GeneratedDocument(JOBS, document, Outcome.REJECTED, (Defect.HUGE,), made.tenant, made.id, made.fields)

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
        return self._dressed(JOBS, tenant, fields, kind=0 if build else 1, clean=clean)

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
        return self._dressed(RUNS, tenant, fields, kind=None)

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
        fate, why = (Outcome.REJECTED, (Defect.ORPHAN,)) if orphan else (Outcome.REPAIRED, (Repair.OBJECT_ID,))
        fields = {"jobId": job.id if job else None, "tenantId": tenant, "status": status, "createdAt": at}
        return GeneratedDocument(EVENTS, document, fate, why, tenant, None, fields)

    def _dressed(
        self, collection: str, tenant: str, fields: dict[str, Any], *, kind: int | None, clean: bool = False
    ) -> GeneratedDocument:
        """Puts fields into one of the shapes that documents had, and perhaps some dirt upon them."""
        random = self._random
        old_id, uuid, mends = self._old_id(collection, clean=clean)
        body, expected = dict(fields), dict(fields)
        if not clean:
            mends += self._mended(collection, body, expected)
        if random.random() < 0.2:
            body |= {name: _text_of(value) for name, value in body.items() if isinstance(value, datetime)}
        if random.random() < 0.2:
            body["attempts"] = Int64(body["attempts"])
        dirt = None
        if not clean and random.random() < self._dirty:
            dirt = self._spoilt(collection, body)
        document: dict[str, Any] = {"_id": old_id}
        if kind is not None:
            document |= self._told(kind)
        if random.random() < 0.4:
            # The columns of old stand beside the payload.
            document |= {name: body[name] for name in ("tenantId", "status") if name in body}
            document["payload"] = body
        else:
            document |= body
        fate = Outcome.REJECTED if dirt else Outcome.REPAIRED if mends else Outcome.CLEAN
        return GeneratedDocument(collection, document, fate, (dirt,) if dirt else mends, tenant, uuid, expected)

    def _told(self, kind: int) -> dict[str, Any]:
        word = ("build", "overlay")[kind]
        told: list[dict[str, Any]] = [{"kind": word}, {"type": word}, {"kind": kind}, {"type": kind}]
        # An overlay job that does not tell is told by its overlayKind.
        return self._random.choice([*told, {}] if kind else told)

    def _old_id(self, collection: str, *, clean: bool) -> tuple[Any, UUID | None, tuple[Repair, ...]]:
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

    def _mended(self, collection: str, body: dict[str, Any], expected: dict[str, Any]) -> tuple[Repair, ...]:
        if collection != JOBS:
            return ()
        mends: tuple[Repair, ...] = ()
        old = {"queued": "pending", "canceled": "cancelled"}.get(body["status"])
        if old and self._random.random() < 0.3:
            body["status"] = old
            mends += (Repair.OLD_WORD,)
        if body["status"] == "running" and self._random.random() < 0.2:
            del body["startedAt"]
            expected["startedAt"] = expected["createdAt"]
            mends += (Repair.NO_START,)
        return mends

    def _spoilt(self, collection: str, body: dict[str, Any]) -> Defect:
        kinds = [Defect.NO_TENANT, Defect.UNKNOWN_STATUS, Defect.NUL, Defect.NAN, Defect.DECIMAL, Defect.FAR_DATE]
        dirt = self._random.choice([*kinds, Defect.WRONG_DIGEST] if "sbomDigest" in body else kinds)
        match dirt:
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
        return dirt

    def _twin(self, made: GeneratedDocument) -> GeneratedDocument:
        """Another job under the same `_id`, or under one that becomes the same."""
        old_id = made.document["_id"]
        meeting: Any = None
        if isinstance(old_id, ObjectId):
            meeting = str(old_id)
        elif made.id:
            meeting = str(made.id).upper() if old_id == str(made.id) else str(made.id)
        meets = meeting is not None and self._random.random() < 0.5
        # Another one, not a copy: a copy would be no loss.
        twin = self._job(clean=True)
        document = {**twin.document, "_id": meeting if meets else old_id}
        for body in (document, document.get("payload", {})):
            if "tenantId" in body:
                body["tenantId"] = made.tenant
        dirt = Defect.EQUIVALENT_ID if meets else Defect.DUPLICATE_ID
        why: tuple[Repair | Defect, ...] = (dirt,)
        if made.outcome is Outcome.REJECTED:
            # The other one does not come, so this one may.
            why = () if made.id else (Repair.OBJECT_ID if isinstance(document["_id"], ObjectId) else Repair.TEXT_ID,)
        fate = Outcome.CLEAN if not why else Outcome.REPAIRED if isinstance(why[0], Repair) else Outcome.REJECTED
        return GeneratedDocument(
            JOBS, document, fate, why, made.tenant, made.id, {**twin.fields, "tenantId": made.tenant}
        )


def _text_of(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def generate(count: int, seed: int = 0, *, dirty: float = 2.0) -> list[GeneratedDocument]:
    """Makes that many documents: half of them jobs, the rest events and policy runs."""
    maker = DumpGenerator(seed, dirty=dirty)
    return [*maker.jobs(count // 2), *maker.runs(count // 5), *maker.events(count - count // 2 - count // 5)]


def write_files(folder: Path, documents: Iterable[GeneratedDocument], file_format: str = "bson") -> dict[str, Path]:
    """Writes each collection to a file of the form, and gives the files by collection."""
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
    """Gives the content of a file of one of `FORMS`."""
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
    """Cuts a file off at a byte."""
    path.write_bytes(path.read_bytes()[:at])


def flip_byte(path: Path, at: int) -> None:
    """Turns the bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
