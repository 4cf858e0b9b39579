"""A dry run tells of each document what becomes of it, and the command tells it to people and to programs."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from graphjobs.backfill import dry_run as surveys
from graphjobs.backfill.dry_run import Survey, survey
from graphjobs.backfill.extract.records import SourcePart
from graphjobs.backfill.extract.sources import open_source
from tests.backfill import dumps
from tests.backfill.dumps import Defect, DumpGenerator, GeneratedDocument, Outcome
from tests.migrations.cli_tools import Done, many_graphjobs

Command: TypeAlias = Callable[..., Done]

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
def made() -> list[GeneratedDocument]:
    """Documents of every kind, also those that only another one makes wrong."""
    return dumps.generate(3_000, 7, dirty=8)


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command."""
    with many_graphjobs() as command:
        yield command


async def surveyed(place: Path) -> Survey:
    """What a dry run tells."""
    async with open_source(str(place)) as source:
        return await survey(source)


@pytest.mark.parametrize("form", ["bson", "json.gz", "jsonl"])
async def test_each_document_is_counted_for_what_becomes_of_it(
    made: list[GeneratedDocument], tmp_path: Path, form: str
) -> None:
    """By tenant and status where it comes, by field where it cannot; whichever form it is read from."""
    dumps.write_files(tmp_path, made, form)
    whole = await surveyed(tmp_path)
    come = [each for each in made if each.outcome is not Outcome.REJECTED]
    why = Counter(dirt for each in made for dirt in each.causes if isinstance(dirt, Defect))
    assert why.keys() == _FIELDS.keys()
    assert (len(made), why.total(), 0, ()) == (whole.documents, whole.refused, whole.repeated, whole.judged_alone)
    refused: Counter[tuple[str, str]] = Counter()
    for each in made:
        refused.update((each.collection, _FIELDS[dirt]) for dirt in each.causes if isinstance(dirt, Defect))
    assert refused == {group: refusals.number for group, refusals in whole.refusals.items()}
    counts: Counter[tuple[str, str, str]] = Counter()
    for (tenant, kind, status), number in whole.counts.items():
        counts[tenant, _COLLECTIONS[kind], status] += number
    assert counts == Counter((each.tenant, each.collection, str(each.fields["status"])) for each in come)
    mended = [each for each in made if each.outcome is Outcome.REPAIRED]
    assert len(mended) <= whole.changed <= len(come)


async def test_what_is_no_document_is_told_where_it_stands(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """A file that was cut off is read as far as it goes; and the others whole."""
    files = dumps.write_files(tmp_path, made, "bson")
    whole = await surveyed(tmp_path)
    dumps.truncate(files[dumps.JOBS], files[dumps.JOBS].stat().st_size - 10)
    cut = await surveyed(tmp_path)
    assert (whole.documents, 1) == (cut.documents, cut.refusals[dumps.JOBS, ""].number)
    assert cut.refusals[dumps.JOBS, ""].first.startswith("graph_jobs.bson, at byte ")


async def test_very_many_groups_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with what somebody named."""
    monkeypatch.setattr(surveys, "GROUPS_MAX", 3)
    many = [each for each in DumpGenerator(1, dirty=0, tenants=50).jobs(200) if each.outcome is not Outcome.REJECTED]
    dumps.write_files(tmp_path, many, "bson")
    whole = await surveyed(tmp_path)
    assert 4 == len(whole.counts)
    assert len(many) == whole.counts.total()
    assert whole.counts[(surveys.OTHERS,) * 3] > 100


async def test_it_tells_how_it_stands(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """Now and then, and at the end of each part."""
    dumps.write_files(tmp_path, made, "bson")
    seen: list[tuple[int, str]] = []

    def told(whole: Survey, part: SourcePart) -> None:
        seen.append((whole.documents, part.collection))

    async with open_source(str(tmp_path)) as source:
        await survey(source, told=told)
    assert seen == sorted(seen, key=lambda each: each[0])
    assert len(made) == seen[-1][0]
    assert ["graph_jobs", "policy_runs", "graph_job_events"] == list(dict.fromkeys(part for _, part in seen))
    assert len(seen) > len(made) // 100


def _records(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_exits_1_where_some_cannot_come(
    graphjobs: Command, made: list[GeneratedDocument], tmp_path: Path
) -> None:
    """It says how many, in a sentence; the lines of JSON add up, and the tables say the same."""
    dumps.write_files(tmp_path, made, "bson.gz")
    done = graphjobs("backfill", str(tmp_path), "--dry-run", "--json")
    first, *others = _records(done)
    refused = sum(each.outcome is Outcome.REJECTED for each in made)
    assert (1, f"graphjobs: {refused:,} of {len(made):,} documents cannot come\n") == (done.returncode, done.stderr)
    assert (len(made), refused) == (first["documents"], first["refused"])
    assert len(made) - refused == sum(each["documents"] for each in others if "kind" in each)
    assert refused == sum(each["refused"] for each in others if "first" in each)
    told = graphjobs("backfill", str(tmp_path), "--dry-run")
    assert 1 == told.returncode
    assert f"{len(made):,} documents: {first['changed']:,} would be changed, {refused:,} cannot come\n" in told.stdout
    for name in ("tenant-0", "made of the old one", "policy run", "is missing; it must be non-empty text"):
        assert name in told.stdout


def test_the_command_exits_0_where_all_can_come(graphjobs: Command, tmp_path: Path) -> None:
    """Also of one file."""
    made = [each for each in DumpGenerator(3, dirty=0).jobs(50) if each.outcome is not Outcome.REJECTED]
    files = dumps.write_files(tmp_path, made, "jsonl")
    done = graphjobs("backfill", str(files[dumps.JOBS]), "--dry-run", "--json")
    assert (0, "") == (done.returncode, done.stderr)
    assert (len(made), 0) == (_records(done)[0]["documents"], _records(done)[0]["refused"])


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
def test_what_cannot_be_read_is_one_sentence(graphjobs: Command, arguments: list[str], code: int, words: str) -> None:
    """And an exit code."""
    done = graphjobs("backfill", *arguments)
    assert (code, "") == (done.returncode, done.stdout)
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
