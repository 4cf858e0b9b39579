"""Mapping in separate processes: it equals mapping in this process, and no mapper outlives its parent."""

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
from graphjobs.backfill.batches import Batch, read_batches
from graphjobs.backfill.extract import files
from graphjobs.backfill.extract.records import ReadOffset
from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.parallel_mapping import open_parallel
from graphjobs.backfill.runner import run_backfill
from graphjobs.backfill.verify import verify
from graphjobs.errors import ConfigurationError, GraphJobsError
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.dumps import GeneratedDocument
from tests.backfill.tables import backfill_path, rejected_of, state
from tests.migrations.cli_tools import SECONDS_MAX, beside_python, environment

_SECONDS = 30.0


@pytest.fixture(scope="module")
def generated() -> list[GeneratedDocument]:
    """Return documents of every kind, more than a batch of each."""
    return dumps.generate(5_000, 17, dirty=4)


@pytest.fixture(autouse=True)
def _every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", 0)


def _mappers() -> list[psutil.Process]:
    """Return the mappers of this process."""
    return [process for process in psutil.Process().children() if _is_mapper(process)]


def _is_mapper(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "parallel_mapping import main" in " ".join(
            process.cmdline()
        )
    except psutil.NoSuchProcess:
        return False


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def _batches(location: Path, opened: Any) -> list[Batch]:
    async with opened(str(location)) as source:
        batches = []
        for part in source.parts:
            async with aclosing(read_batches(source, part, "csharp", ReadOffset())) as reading:
                batches += [batch async for batch in reading]
            assert part.size_bytes == source.bytes_read(part)
        return batches


@pytest.mark.parametrize("form", ["bson", "jsonl.gz"])
async def test_batches_equal_those_of_this_process(
    generated: list[GeneratedDocument], tmp_path: Path, form: str
) -> None:
    """The same rows, positions and rejections, in the same order; the mappers end with the source."""
    files = dumps.write_files(tmp_path, generated, form)
    if form == "bson":
        with files[dumps.JOBS].open("ab") as file:
            tag = {"id": str(UUID(int=1)), "field": "", "reason": "", "location": "", "sha256": ""}
            file.write(bson.encode({"_quarantine": tag, "_id": "wrong repair"}))
            file.write(bson.encode(dumps.DumpGenerator(1).huge().document) + b"\5\0")
    expected, actual = await _batches(tmp_path, open_source), await _batches(tmp_path, open_parallel)
    assert expected == actual
    assert [] == [old_id for batch in actual for old_id in batch.superseded]  # the folder is no quarantine
    assert len(generated) + 3 * (form == "bson") == sum(batch.documents for batch in actual)
    assert 3 == sum(batch.is_last for batch in actual)
    assert [] == _mappers()


async def test_a_small_part_is_mapped_in_this_process(
    generated: list[GeneratedDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process starts more slowly than it would map the part."""
    path = dumps.write_files(tmp_path, generated)[dumps.JOBS]
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", path.stat().st_size + 1)
    async with _reading(path) as (_, mappers):
        assert [] == mappers
    monkeypatch.setattr(parallel_mapping, "SIZE_MIN", path.stat().st_size)
    async with _reading(path) as (_, mappers):
        assert parallel_mapping.MAPPERS == len(mappers)


@asynccontextmanager
async def _reading(path: Path) -> AsyncIterator[tuple[Any, list[psutil.Process]]]:
    """Read the first batch of a part, and yield the other batches and the mappers."""
    async with (
        open_parallel(str(path)) as source,
        aclosing(read_batches(source, source.parts[0], "csharp", ReadOffset())) as batches,
    ):
        assert 1_000 == (await anext(batches)).documents
        yield batches, _mappers()


async def test_a_backfill_has_the_outcome_of_the_generator(
    generated: list[GeneratedDocument], storage: Storage, url: str, tmp_path: Path
) -> None:
    """Documents are written as without mappers. A second run changes nothing, and the verification passes."""
    dumps.write_files(tmp_path, generated)
    async with open_parallel(str(tmp_path)) as source:
        report = await run_backfill(storage, source)
        rejected = len(rejected_of(generated))
        assert (len(generated), rejected) == (report.counts.documents, sum(report.pending.values()))
        before = state(url)
        assert (await verify(storage, source)).ok
    assert 0 == (await backfill_path(storage, tmp_path)).counts.added
    assert before == state(url)


async def test_a_killed_mapper_is_reported_and_loses_nothing(
    generated: list[GeneratedDocument], storage: Storage, tmp_path: Path
) -> None:
    """For instance for lack of memory: written batches stay, and the next run resumes."""
    dumps.write_files(tmp_path, generated)
    async with open_parallel(str(tmp_path)) as source:
        backfill = asyncio.create_task(run_backfill(storage, source))
        await _wait_until(lambda: bool(_mappers()))
        _mappers()[-1].kill()
        with pytest.raises(
            GraphJobsError, match=r"a mapper process of graph_jobs.bson ended \(exit code -9\); .*run it"
        ):
            await asyncio.wait_for(backfill, _SECONDS)
    assert [] == _mappers()
    assert len(generated) == (await backfill_path(storage, tmp_path)).counts.documents


async def test_no_mapper_remains(generated: list[GeneratedDocument], tmp_path: Path) -> None:
    """Neither after an early end of reading, nor after a cancellation during a request."""
    path = dumps.write_files(tmp_path, generated)[dumps.JOBS]
    async with _reading(path) as (_, mappers):
        assert [True, True] == [process.is_running() for process in mappers]
    assert [] == _mappers()
    reading = asyncio.create_task(_batches(path, open_parallel))
    await _wait_until(lambda: bool(_mappers()))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [] == _mappers()


async def test_a_mapper_with_an_unread_result_is_ended(generated: list[GeneratedDocument], tmp_path: Path) -> None:
    """As after a cancellation during its answer: the result is larger than the pipe and the buffer of its reader."""
    path = dumps.write_files(tmp_path, generated)[dumps.JOBS]
    async with open_source(str(path)) as source:
        (part,) = source.parts
        async with aclosing(source.read(part)) as entries:
            share = [await anext(entries) for _ in range(1_000)]
        batch = Batch(part.collection, part.name, "csharp", ReadOffset(), ReadOffset())
        async with asyncio.timeout(_SECONDS), parallel_mapping._start_mapper() as mapper:
            requests, results = mapper.stdin, mapper.stdout
            assert requests is not None
            assert results is not None
            requests.write(parallel_mapping._encode((batch, share)))
            await requests.drain()
            await _wait_until(lambda: len(results._buffer) > 128 * 1024)  # type: ignore[attr-defined]  # asyncio's own
    assert [] == _mappers()


async def test_reading_ahead_is_bounded(generated: list[GeneratedDocument], tmp_path: Path) -> None:
    """It reads ahead no more than the source itself does, so memory is bounded."""
    path = dumps.write_files(tmp_path, generated)[dumps.JOBS]
    async with open_parallel(str(path)) as source:
        (part,) = source.parts
        async with aclosing(read_batches(source, part, "csharp", ReadOffset())) as batches:
            batch = await anext(batches)
            ahead = source.bytes_read(part) - batch.end.offset
            assert 0 <= ahead <= 3 * files.BATCH_SIZE_MAX


async def test_an_error_of_the_source_is_raised(generated: list[GeneratedDocument], tmp_path: Path) -> None:
    """With its own text; no mapper remains."""
    path = dumps.write_files(tmp_path, generated)[dumps.JOBS]
    async with open_parallel(str(path)) as source:
        with path.open("ab") as file:
            file.write(b"\5\0\0\0\0")
        with pytest.raises(ConfigurationError, match=r"graph_jobs.bson has changed while it was read: begin again"):
            async with aclosing(read_batches(source, source.parts[0], "csharp", ReadOffset())) as batches:
                await anext(batches)
    assert [] == _mappers()


def test_mappers_end_with_a_killed_parent(url: str, tmp_path: Path) -> None:
    """The end of the parent closes their input, and they end by themselves."""
    dumps.write_files(tmp_path / "dump", dumps.generate(12_000, 3))
    assert (tmp_path / "dump" / "graph_jobs.bson").stat().st_size > 2 * 1024 * 1024
    process = subprocess.Popen(
        [beside_python("graphjobs"), "backfill", str(tmp_path / "dump"), "--quarantine", str(tmp_path / "files")],
        env=environment(GRAPHJOBS_DATABASE_URL=url),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        mappers = _wait_for(
            lambda: [process for process in psutil.Process(process.pid).children() if _is_mapper(process)]
        )
        assert all(os.getsid(process.pid) == process.pid for process in mappers)
    finally:
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=SECONDS_MAX)
    _wait_for(lambda: not any(_is_mapper(process) for process in mappers))
    assert "Traceback" not in stderr


def _wait_for(get_result: Callable[[], Any]) -> Any:
    until = time.monotonic() + _SECONDS
    while not (result := get_result()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return result
