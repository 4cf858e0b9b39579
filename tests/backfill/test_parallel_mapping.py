"""Mapping in processes of their own gives what mapping here gives, and none outlives whoever asked it."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import bson
import psutil  # type: ignore[import-untyped]
import pytest

from graphjobs.backfill import parallel_mapping
from graphjobs.backfill.batches import Batch, batches_of
from graphjobs.backfill.extract import files
from graphjobs.backfill.extract.records import ReadOffset
from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.parallel_mapping import open_apart
from graphjobs.backfill.runner import run_backfill
from graphjobs.backfill.verify import verify
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.dumps import GeneratedDocument, Outcome
from tests.backfill.tables import backfilled, state
from tests.migrations.cli_tools import SECONDS_MAX, beside_python, environment

_SECONDS = 30.0


@pytest.fixture(scope="module")
def made() -> list[GeneratedDocument]:
    """Documents of every kind, of more than a batch each."""
    return dumps.generate(5_000, 17, dirty=4)


@pytest.fixture(autouse=True)
def _every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", 0)


def _mappers() -> list[psutil.Process]:
    """Gives the processes that map for this one."""
    return [each for each in psutil.Process().children() if _maps(each)]


def _maps(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "apart" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


async def _becomes(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not true():
            await asyncio.sleep(0.02)


async def _batches(place: Path, opened: Any) -> list[Batch]:
    async with opened(str(place)) as source:
        found = []
        for part in source.parts:
            async with aclosing(batches_of(source, part, "csharp", ReadOffset())) as reading:
                found += [batch async for batch in reading]
            assert part.size_bytes == source.bytes_read(part)
        return found


@pytest.mark.parametrize("form", ["bson", "jsonl.gz"])
async def test_batches_are_those_that_are_mapped_here(made: list[GeneratedDocument], tmp_path: Path, form: str) -> None:
    """The same rows, positions and refusals, in the same order; and it ends with the source."""
    files = dumps.write_files(tmp_path, made, form)
    if form == "bson":
        with files[dumps.JOBS].open("ab") as file:
            tag = {"id": str(UUID(int=1)), "field": "", "reason": "", "place": "", "sha256": ""}
            file.write(bson.encode({"_quarantine": tag, "_id": "mended wrongly"}))
            file.write(bson.encode(dumps.DumpGenerator(1).huge().document) + b"\5\0")
    here, there = await _batches(tmp_path, open_source), await _batches(tmp_path, open_apart)
    assert here == there
    assert [UUID(int=1)] * (form == "bson") == [each for batch in there for each in batch.replaced]
    assert len(made) + 3 * (form == "bson") == sum(batch.documents for batch in there)
    assert 3 == sum(batch.last for batch in there)
    assert [] == _mappers()


async def test_a_small_part_is_mapped_here(
    made: list[GeneratedDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes longer to start than that takes."""
    path = dumps.write_files(tmp_path, made)[dumps.JOBS]
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", path.stat().st_size + 1)
    async with _reading(path) as (_, mappers):
        assert [] == mappers
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", path.stat().st_size)
    async with _reading(path) as (_, mappers):
        assert parallel_mapping.MAPPERS == len(mappers)


@asynccontextmanager
async def _reading(path: Path) -> AsyncIterator[tuple[Any, list[psutil.Process]]]:
    """Reads the first batch of a part, and gives the rest and who maps it."""
    async with (
        open_apart(str(path)) as source,
        aclosing(batches_of(source, source.parts[0], "csharp", ReadOffset())) as batches,
    ):
        assert 1_000 == (await anext(batches)).documents
        yield batches, _mappers()


async def test_a_backfill_comes_as_the_generator_says(
    made: list[GeneratedDocument], graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Whoever maps, the same is written; a second run changes nothing, and the check says so."""
    dumps.write_files(tmp_path, made)
    async with open_apart(str(tmp_path)) as source:
        report = await run_backfill(graphjobs_storage, source)
        refused = sum(each.outcome is Outcome.REJECTED for each in made)
        assert (len(made), refused) == (report.counts.documents, sum(report.waiting.values()))
        before = state(graphjobs_database_url)
        assert (await verify(graphjobs_storage, source)).holds
    assert 0 == (await backfilled(graphjobs_storage, tmp_path)).counts.added
    assert before == state(graphjobs_database_url)


async def test_one_that_is_killed_is_told_of_and_loses_nothing(
    made: list[GeneratedDocument], graphjobs_storage: Storage, tmp_path: Path
) -> None:
    """Who ran out of memory, say: what was written stays, and the next run goes on."""
    dumps.write_files(tmp_path, made)
    async with open_apart(str(tmp_path)) as source:
        moving = asyncio.create_task(run_backfill(graphjobs_storage, source))
        await _becomes(lambda: bool(_mappers()))
        _mappers()[-1].kill()
        with pytest.raises(
            GraphJobsError, match=r"a process that maps graph_jobs.bson ended \(exit code -9\); .*run it"
        ):
            await asyncio.wait_for(moving, _SECONDS)
    assert [] == _mappers()
    assert len(made) == (await backfilled(graphjobs_storage, tmp_path)).counts.documents


async def test_none_is_left_behind(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """Neither where nobody reads on, nor where a cancel comes while it is asked."""
    path = dumps.write_files(tmp_path, made)[dumps.JOBS]
    async with _reading(path) as (_, mappers):
        assert [True, True] == [each.is_running() for each in mappers]
    assert [] == _mappers()
    reading = asyncio.create_task(_batches(path, open_apart))
    await _becomes(lambda: bool(_mappers()))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [] == _mappers()


async def test_one_whose_answer_nobody_reads_is_ended(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """As where a cancel comes while it answers: more than what the pipe and its reader hold is on its way."""
    path = dumps.write_files(tmp_path, made)[dumps.JOBS]
    async with open_source(str(path)) as source:
        (part,) = source.parts
        async with aclosing(source.read(part)) as entries:
            share = [await anext(entries) for _ in range(1_000)]
        batch = Batch(part.collection, part.name, "csharp", ReadOffset(), ReadOffset())
        async with asyncio.timeout(_SECONDS), parallel_mapping._started() as mapper:
            to, answers = mapper.stdin, mapper.stdout
            assert to is not None
            assert answers is not None
            to.write(parallel_mapping._framed((batch, share)))
            await to.drain()
            await _becomes(lambda: len(answers._buffer) > 128 * 1024)  # type: ignore[attr-defined]  # asyncio's own
    assert [] == _mappers()


async def test_it_reads_no_further_than_it_is_asked_to(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """What is read ahead fills the memory: no more than what the source reads ahead itself."""
    path = dumps.write_files(tmp_path, made)[dumps.JOBS]
    async with open_apart(str(path)) as source:
        (part,) = source.parts
        async with aclosing(batches_of(source, part, "csharp", ReadOffset())) as batches:
            batch = await anext(batches)
            ahead = source.bytes_read(part) - batch.reached.offset
            assert 0 <= ahead <= 3 * files.BATCH_SIZE_MAX


async def test_what_is_wrong_with_a_source_is_told(made: list[GeneratedDocument], tmp_path: Path) -> None:
    """In the source's own words; and no process is left."""
    path = dumps.write_files(tmp_path, made)[dumps.JOBS]
    async with open_apart(str(path)) as source:
        with path.open("ab") as file:
            file.write(b"\5\0\0\0\0")
        with pytest.raises(ConfigurationError, match=r"graph_jobs.bson has changed while it was read: begin again"):
            async with aclosing(batches_of(source, source.parts[0], "csharp", ReadOffset())) as batches:
                await anext(batches)
    assert [] == _mappers()


def test_they_end_with_whoever_asked_them(graphjobs_database_url: str, tmp_path: Path) -> None:
    """Also where that was killed, which tells nobody: what they read from is closed, and so they end by themselves."""
    dumps.write_files(tmp_path / "dump", dumps.generate(12_000, 3))
    assert (tmp_path / "dump" / "graph_jobs.bson").stat().st_size > 2 * 1024 * 1024
    process = subprocess.Popen(
        [beside_python("graphjobs"), "backfill", str(tmp_path / "dump"), "--quarantine", str(tmp_path / "files")],
        env=environment(GRAPHJOBS_DATABASE_URL=graphjobs_database_url),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        mappers = _wait_for(lambda: [each for each in psutil.Process(process.pid).children() if _maps(each)])
        assert all(os.getsid(each.pid) == each.pid for each in mappers)
    finally:
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=SECONDS_MAX)
    _wait_for(lambda: not any(_maps(each) for each in mappers))
    assert "Traceback" not in said


def _wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + _SECONDS
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
