"""Results of dry runs, and their output as tables and as JSON."""

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from graphjobs.backfill import dry_run as dry_run_module
from graphjobs.backfill.dry_run import DryRunReport, dry_run
from graphjobs.backfill.extract.records import SourcePart
from graphjobs.backfill.extract.sources import open_source
from tests.backfill import dumps
from tests.backfill.dumps import Defect, DumpGenerator, GeneratedDocument, Outcome
from tests.backfill.tables import Command, imported_of, records, rejected_of

_FIELDS: Final = {
    Defect.NO_TENANT: "tenantId",
    Defect.UNKNOWN_STATUS: "status",
    Defect.WRONG_DIGEST: "sbomDigest",
    Defect.DUPLICATE_ID: "_id",
    Defect.EQUIVALENT_ID: "_id",
    Defect.NUL: "correlationId",
    Defect.NAN: "attempts",
    Defect.DECIMAL: "attempts",
    Defect.FAR_DATE: "createdAt",
    Defect.ORPHAN: "jobId",
}

_COLLECTIONS: Final = {"build": dumps.JOBS, "overlay": dumps.JOBS, "policy run": dumps.RUNS, "event": dumps.EVENTS}


@pytest.fixture(scope="module")
def generated() -> list[GeneratedDocument]:
    """Return documents of every kind, including those that are invalid only because of another one."""
    return dumps.generate(3_000, 7, dirty=8)


async def dry_run_path(location: Path) -> DryRunReport:
    """Return the report of a dry run."""
    async with open_source(str(location)) as source:
        return await dry_run(source)


@pytest.mark.parametrize("form", ["bson", "json.gz", "jsonl"])
async def test_each_document_is_counted_by_its_outcome(
    generated: list[GeneratedDocument], tmp_path: Path, form: str
) -> None:
    dumps.write_files(tmp_path, generated, form)
    report = await dry_run_path(tmp_path)
    imported = imported_of(generated)
    defects = Counter(defect for document in generated for defect in document.causes if isinstance(defect, Defect))
    assert defects.keys() == _FIELDS.keys()
    assert (len(generated), defects.total(), 0, ()) == (
        report.documents,
        report.rejected,
        report.repeated,
        report.unverified_events,
    )
    rejected: Counter[tuple[str, str]] = Counter()
    for document in generated:
        rejected.update(
            (document.collection, _FIELDS[defect]) for defect in document.causes if isinstance(defect, Defect)
        )
    assert rejected == {group: refusals.number for group, refusals in report.rejections.items()}
    counts: Counter[tuple[str, str, str]] = Counter()
    for (tenant, kind, status), number in report.counts.items():
        counts[tenant, _COLLECTIONS[kind], status] += number
    assert counts == Counter(
        (document.tenant, document.collection, str(document.fields["status"])) for document in imported
    )
    repaired = [document for document in generated if document.outcome is Outcome.REPAIRED]
    assert len(repaired) <= report.changed <= len(imported)


async def test_a_truncated_document_is_reported_with_its_location(
    generated: list[GeneratedDocument], tmp_path: Path
) -> None:
    """A truncated file is read up to its end, and other files completely."""
    files = dumps.write_files(tmp_path, generated, "bson")
    report = await dry_run_path(tmp_path)
    dumps.truncate(files[dumps.JOBS], files[dumps.JOBS].stat().st_size - 10)
    cut = await dry_run_path(tmp_path)
    assert (report.documents, 1) == (cut.documents, cut.rejections[dumps.JOBS, ""].number)
    assert cut.rejections[dumps.JOBS, ""].first.startswith("graph_jobs.bson, at byte ")


async def test_groups_above_the_limit_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the number of names in the source."""
    monkeypatch.setattr(dry_run_module, "GROUPS_MAX", 3)
    many = imported_of(DumpGenerator(1, dirty=0, tenants=50).jobs(200))
    dumps.write_files(tmp_path, many, "bson")
    report = await dry_run_path(tmp_path)
    assert 4 == len(report.counts)
    assert len(many) == report.counts.total()
    assert report.counts[(dry_run_module.OTHERS,) * 3] > 100


async def test_progress_is_reported(generated: list[GeneratedDocument], tmp_path: Path) -> None:
    dumps.write_files(tmp_path, generated, "bson")
    progress: list[tuple[int, str]] = []

    def on_progress(report: DryRunReport, part: SourcePart) -> None:
        progress.append((report.documents, part.collection))

    async with open_source(str(tmp_path)) as source:
        await dry_run(source, on_progress=on_progress)
    assert progress == sorted(progress, key=lambda item: item[0])
    assert len(generated) == progress[-1][0]
    assert ["graph_jobs", "policy_runs", "graph_job_events"] == list(dict.fromkeys(part for _, part in progress))
    assert len(progress) > len(generated) // 100


def test_the_command_exits_1_if_a_document_would_be_rejected(
    graphjobs: Command, generated: list[GeneratedDocument], tmp_path: Path
) -> None:
    dumps.write_files(tmp_path, generated, "bson.gz")
    done = graphjobs("backfill", str(tmp_path), "--dry-run", "--json")
    first, *others = records(done)
    rejected = len(rejected_of(generated))
    assert (1, f"graphjobs: {rejected:,} of {len(generated):,} documents would be rejected\n") == (
        done.returncode,
        done.stderr,
    )
    assert (len(generated), rejected) == (first["documents"], first["rejected"])
    assert len(generated) - rejected == sum(record["documents"] for record in others if "kind" in record)
    assert rejected == sum(record["rejected"] for record in others if "first" in record)
    table = graphjobs("backfill", str(tmp_path), "--dry-run")
    assert 1 == table.returncode
    assert (
        f"{len(generated):,} documents: {first['changed']:,} would be changed, {rejected:,} would be rejected\n"
        in table.stdout
    )
    for name in ("tenant-0", "made of the old one", "policy run", "is missing; it must be non-empty text"):
        assert name in table.stdout


def test_the_command_exits_0_if_all_documents_would_be_imported(graphjobs: Command, tmp_path: Path) -> None:
    generated = imported_of(DumpGenerator(3, dirty=0).jobs(50))
    files = dumps.write_files(tmp_path, generated, "jsonl")
    done = graphjobs("backfill", str(files[dumps.JOBS]), "--dry-run", "--json")
    assert (0, "") == (done.returncode, done.stderr)
    assert (len(generated), 0) == (records(done)[0]["documents"], records(done)[0]["rejected"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/nowhere/at/all", "--dry-run"], 3, "there is no file or folder /nowhere/at/all"),
        (["postgresql://host/name", "--dry-run"], 3, "starts with mongodb://"),
        (["mongodb://localhost", "--dry-run"], 3, "must name the database"),
        ([".", "--dry-run"], 3, "holds no dump (graph_jobs.bson"),
        ([".", "--dry-run", "--legacy-uuids", "ruby"], 2, "--legacy-uuids"),
    ],
)
def test_an_unreadable_source_is_one_sentence(graphjobs: Command, arguments: list[str], code: int, words: str) -> None:
    done = graphjobs("backfill", *arguments)
    assert (code, "") == (done.returncode, done.stdout)
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
