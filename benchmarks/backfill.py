"""Benchmark of the backfill: rate and memory, verification, a plain COPY, and documents read again after a kill."""

import asyncio
import json
import os
import statistics
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks.copy_baseline import copy_rows, write_rows
from benchmarks.dumping import write_dump
from benchmarks.killed_backfill import COUNT
from benchmarks.measure import BenchmarkError, Figure, compared
from benchmarks.processes import started
from benchmarks.seeding import connected, settle, truncate
from benchmarks.suite import Bench
from graphjobs.backfill.batches import DOCUMENTS_MAX
from graphjobs.backfill.tables import BackfillCheckpointRow, BackfillQuarantineRow
from graphjobs.database.schema import SCHEMA

BACKFILL: Final = "backfill"
COPY: Final = "COPY"
VERIFY: Final = "verify"
OF_COPY_AT_LEAST: Final = 0.25
OF_BACKFILL_AT_LEAST: Final = 0.5
PEAK_AT_MOST: Final = 300.0
"""Megabytes."""
GROWS_AT_MOST: Final = 1.15
"""Peak memory relative to that of a tenth of the documents."""
BATCHES_AT_MOST: Final = 1.0
"""Documents that are read again after a kill, in batches."""

LEGEND: Final = {
    BACKFILL: "graphjobs backfill of a folder that mongodump wrote: decoded, mapped, validated, written with a "
    "checkpoint per 1,000; the start of its processes is included",
    COPY: "copy_records_to_table of the same rows, in one statement and one transaction, with all indexes; the "
    "rows are read from a prepared file, a microsecond each",
    VERIFY: "graphjobs backfill --verify of the same dump, measured in the same way",
}

_ROUNDS: Final = 3
_KILLS: Final = 5
_LIMIT_SECONDS: Final = 120.0
_SLOWEST_A_SECOND: Final = 1_000
_POLL_SECONDS: Final = 0.005
_TABLES: Final = tuple(f"{SCHEMA}.{row.__tablename__}" for row in (BackfillCheckpointRow, BackfillQuarantineRow))
_HERE: Final = Path(__file__)


@dataclass(slots=True)
class _Rounds:
    """Measured values, one per round: documents per second, and megabytes."""

    backfill: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    verify: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    peak_of_tenth: list[float] = field(default_factory=list)


async def backfill(bench: Bench) -> list[Figure]:
    """Measure backfills of a dump in turns with a COPY, with their memory, and backfills that are killed."""
    number = bench.many_rows
    with tempfile.TemporaryDirectory(prefix="graphjobs-bench-") as folder:
        bench.say(f"a dump of {number:,} documents")
        dumps = [
            await asyncio.to_thread(write_dump, Path(folder, f"of-{size}"), size) for size in (number, number // 10)
        ]
        backfills = _Backfills(bench, Path(folder), *dumps)
        rounds = await backfills.in_turns(_ROUNDS)
        resumed = await backfills.killed(DOCUMENTS_MAX / statistics.median(rounds.backfill))
    return [*_rates(rounds), *_memory(rounds, number), *resumed]


class _Backfills:
    """Backfills of one dump, and of a tenth of it."""

    def __init__(self, bench: Bench, folder: Path, whole: Path, tenth: Path) -> None:
        self._bench = bench
        self._folder, self._whole, self._tenth = folder, whole, tenth
        self._count = folder / "count"
        self._number = bench.many_rows
        self._limit = _LIMIT_SECONDS + self._number / _SLOWEST_A_SECOND
        self._environment = {**os.environ, "GRAPHJOBS_DATABASE_URL": bench.url}

    async def in_turns(self, number: int) -> _Rounds:
        """Measure backfill, COPY, verification and memory, each on empty tables."""
        rounds, rows = _Rounds(), self._folder / "rows"
        for turn in range(number):
            round_name = f"round {turn + 1} of {number}"
            # The first backfill writes the rows of the COPY. The order alternates after it.
            for name in (BACKFILL, COPY) if turn % 2 == 0 else (COPY, BACKFILL):
                self._bench.say(f"{round_name}: {name}")
                await self._truncate()
                if name == BACKFILL:
                    seconds, peak = await self._backfill(self._whole, self._number)
                    rounds.backfill.append(self._number / seconds)
                    rounds.peak.append(peak)
                    self._bench.say(f"{round_name}: {VERIFY}")
                    await settle(self._bench.url)
                    rounds.verify.append(self._number / await self._verify())
                    if turn == 0 and await write_rows(self._bench.url, rows) != self._number:
                        raise BenchmarkError("the backfill did not import all documents")
                else:
                    async with asyncio.timeout(self._limit):
                        rounds.copy.append(self._number / await copy_rows(self._bench.url, rows))
            self._bench.say(f"{round_name}: a tenth")
            await self._truncate()
            rounds.peak_of_tenth.append((await self._backfill(self._tenth, self._number // 10))[1])
        return rounds

    async def killed(self, batch_seconds: float) -> list[Figure]:
        """Kill a backfill several times, and return how many documents it read again, and the time of each start."""
        await self._truncate()
        twice: list[float] = []
        starts: list[float] = []
        written = 0
        for kill in range(1, _KILLS + 2):
            last = kill > _KILLS
            self._bench.say("to its end" if last else f"kill {kill} of {_KILLS}")
            async with self._counting() as process:
                starts.append(await self._watched(process, written, self._number * kill // (_KILLS + 1)))
                if not last:
                    # At any moment of a batch, not only just after a commit.
                    await asyncio.sleep(self._bench.order.random() * batch_seconds)
                    process.kill()
                code = await process.wait()
            before, written = written, await self._written()
            read = self._counted()
            if last and (code or written != self._number or before + read != written):
                raise BenchmarkError("the killed backfill did not resume and complete")
            if not last:
                twice.append(float(before + read - written))
        reread = compared(
            twice, [float(DOCUMENTS_MAX)] * _KILLS, of="read twice", against="a batch", at_most=BATCHES_AT_MOST
        )
        return [
            Figure("a kill", 1, "read twice", statistics.median(twice), (reread,), unit="documents"),
            Figure("a kill", 1, "start to batch", statistics.median(starts) * 1e3, unit="ms"),
        ]

    async def _truncate(self) -> None:
        await truncate(self._bench.url)
        async with connected(self._bench.url) as connection:
            await connection.execute(f"TRUNCATE {', '.join(_TABLES)}")
        await settle(self._bench.url)

    async def _backfill(self, dump: Path, number: int) -> tuple[float, float]:
        """Run a backfill and return its seconds and peak memory."""
        part, *_, usage = await self._measured(dump, "--quarantine", str(self._folder / "quarantine"))
        if part.get("added") != number:
            raise BenchmarkError(f"the backfill should import {number:,} documents: {part}")
        return usage["seconds"], usage["peakMegabytes"]

    async def _verify(self) -> float:
        totals, *_, usage = await self._measured(self._whole, "--verify")
        if not totals.get("ok") or totals.get("documents") != self._number:
            raise BenchmarkError("the imported rows differ from the dump")
        return float(usage["seconds"])

    async def _measured(self, dump: Path, *options: str) -> list[dict[str, Any]]:
        arguments = (str(self._limit), "backfill", str(dump), "--json", *options)
        program = _HERE.with_name("backfill_memory.py")
        async with started(str(program), *arguments, env=self._environment, stdout=PIPE, stderr=PIPE) as process:
            output, stderr = await process.communicate()
        if process.returncode:
            raise BenchmarkError(f"graphjobs backfill ended with {process.returncode}: {stderr.decode()[-500:]}")
        return [json.loads(line) for line in output.splitlines()]

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[Process]:
        self._count.write_bytes(bytes(COUNT.size))
        program = _HERE.with_name("killed_backfill.py")
        async with started(str(program), str(self._whole), str(self._count), env=self._environment) as process:
            yield process

    def _counted(self) -> int:
        return int(COUNT.unpack(self._count.read_bytes())[0])

    async def _watched(self, process: Process, written: int, number: int) -> float:
        """Wait until a backfill has written a number of documents.

        Returns:
            The seconds until its first commit.
        """
        began, first = time.perf_counter(), 0.0
        async with connected(self._bench.url) as connection, asyncio.timeout(self._limit):
            while written < number:
                await asyncio.sleep(_POLL_SECONDS)
                documents = await _documents(connection)
                if documents > written:
                    first = first or time.perf_counter() - began
                    written = documents
                if process.returncode is not None and written < number:
                    raise BenchmarkError("the backfill ended early")
        return first

    async def _written(self) -> int:
        """Return the number of written documents, after the server has closed the connections of the killed process."""
        async with connected(self._bench.url) as connection:
            async with asyncio.timeout(self._limit):
                await _wait_until_alone(connection)
            return await _documents(connection)


_OTHERS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


async def _wait_until_alone(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Wait until other connections are closed: their last COMMIT may still be running."""
    others = True
    while others:
        await asyncio.sleep(_POLL_SECONDS)
        others = bool(await connection.fetchval(_OTHERS))


async def _documents(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    counts = await connection.fetchval(f"SELECT counts FROM {_TABLES[0]}")
    return int(json.loads(counts)["documents"]) if counts else 0


def _rates(rounds: _Rounds) -> list[Figure]:
    unit = "documents/s"
    of_copy = compared(rounds.backfill, rounds.copy, of=BACKFILL, against=COPY, at_least=OF_COPY_AT_LEAST)
    of_backfill = compared(rounds.verify, rounds.backfill, of=VERIFY, against=BACKFILL, at_least=OF_BACKFILL_AT_LEAST)
    return [
        Figure("backfill", 1, BACKFILL, statistics.median(rounds.backfill), (of_copy,), unit=unit),
        Figure("backfill", 1, COPY, statistics.median(rounds.copy), unit=unit),
        Figure("backfill", 1, VERIFY, statistics.median(rounds.verify), (of_backfill,), unit=unit),
    ]


def _memory(rounds: _Rounds, number: int) -> list[Figure]:
    whole, tenth = f"of {number:,}", f"of {number // 10:,}"
    limit = [PEAK_AT_MOST] * len(rounds.peak)
    ratios = (
        compared(rounds.peak, rounds.peak_of_tenth, of=whole, against=tenth, at_most=GROWS_AT_MOST),
        compared(rounds.peak, limit, of=whole, against=f"{PEAK_AT_MOST:g} MB", at_most=1.0),
    )
    return [
        Figure("peak memory", 1, tenth, statistics.median(rounds.peak_of_tenth), unit="MB"),
        Figure("peak memory", 1, whole, statistics.median(rounds.peak), ratios, unit="MB"),
    ]
