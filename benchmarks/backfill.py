"""The suite of the move from MongoDB: its rate beside a bare COPY, its check, its memory, and what a kill costs it."""

import asyncio
import json
import os
import statistics
import sys
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
from benchmarks.seeding import settle, truncate
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
"""Peak memory, as against a tenth of the documents."""
BATCHES_AT_MOST: Final = 1.0
"""Of documents that are read twice for a kill."""

LEGEND: Final = {
    BACKFILL: "graphjobs backfill of a folder that mongodump wrote: decoded, mapped, validated, written with its "
    "checkpoint each 1,000; its processes' start within the time",
    COPY: "copy_records_to_table of the rows that came of it, one statement and one transaction, all indexes; they "
    "were made ready in a file before, and are taken from there on the way, a microsecond each",
    VERIFY: "graphjobs backfill --verify of the same, likewise",
}

_ROUNDS: Final = 3
_KILLS: Final = 5
_LIMIT_SECONDS: Final = 120.0
_SLOWEST_A_SECOND: Final = 1_000
_POLL_SECONDS: Final = 0.005
_BOOK: Final = tuple(f"{SCHEMA}.{row.__tablename__}" for row in (BackfillCheckpointRow, BackfillQuarantineRow))
_HERE: Final = Path(__file__)


@dataclass(slots=True)
class _Rounds:
    """What was measured, a figure a round: documents a second, and megabytes."""

    backfill: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    verify: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    peak_of_tenth: list[float] = field(default_factory=list)


async def backfill(bench: Bench) -> list[Figure]:
    """Brings a dump in turns with a COPY, checks it, weighs it, and kills it on its way."""
    number = bench.many_rows
    with tempfile.TemporaryDirectory(prefix="graphjobs-bench-") as folder:
        bench.say(f"a dump of {number:,} documents")
        dumps = [
            await asyncio.to_thread(write_dump, Path(folder, f"of-{each}"), each) for each in (number, number // 10)
        ]
        moves = _Moves(bench, Path(folder), *dumps)
        rounds = await moves.in_turns(_ROUNDS)
        resumed = await moves.killed(DOCUMENTS_MAX / statistics.median(rounds.backfill))
    return [*_rates(rounds), *_memory(rounds, number), *resumed]


class _Moves:
    """Backfills of one dump, and of a tenth of it."""

    def __init__(self, bench: Bench, folder: Path, whole: Path, tenth: Path) -> None:
        self._bench = bench
        self._folder, self._whole, self._tenth = folder, whole, tenth
        self._count = folder / "count"
        self._number = bench.many_rows
        self._limit = _LIMIT_SECONDS + self._number / _SLOWEST_A_SECOND
        self._environment = {**os.environ, "GRAPHJOBS_DATABASE_URL": bench.url}

    async def in_turns(self, number: int) -> _Rounds:
        """Measures all that needs no kill, each on truncated tables."""
        rounds, rows = _Rounds(), self._folder / "rows"
        for turn in range(number):
            told = f"round {turn + 1} of {number}"
            # The rows of the COPY are what the first backfill has written; then they change places.
            for name in (BACKFILL, COPY) if turn % 2 == 0 else (COPY, BACKFILL):
                self._bench.say(f"{told}: {name}")
                await self._emptied()
                if name == BACKFILL:
                    seconds, peak = await self._backfill(self._whole, self._number)
                    rounds.backfill.append(self._number / seconds)
                    rounds.peak.append(peak)
                    self._bench.say(f"{told}: {VERIFY}")
                    await settle(self._bench.url)
                    rounds.verify.append(self._number / await self._verify())
                    if turn == 0 and await write_rows(self._bench.url, rows) != self._number:
                        raise BenchmarkError("the backfill did not bring all documents")
                else:
                    async with asyncio.timeout(self._limit):
                        rounds.copy.append(self._number / await copy_rows(self._bench.url, rows))
            self._bench.say(f"{told}: a tenth")
            await self._emptied()
            rounds.peak_of_tenth.append((await self._backfill(self._tenth, self._number // 10))[1])
        return rounds

    async def killed(self, batch_seconds: float) -> list[Figure]:
        """Kills a backfill again and again on its way, and tells what it read twice, and how long each start took."""
        await self._emptied()
        twice: list[float] = []
        starts: list[float] = []
        kept = 0
        for kill in range(1, _KILLS + 2):
            last = kill > _KILLS
            self._bench.say("to its end" if last else f"kill {kill} of {_KILLS}")
            async with self._counting() as process:
                starts.append(await self._watched(process, kept, self._number * kill // (_KILLS + 1)))
                if not last:
                    # At any moment of a batch, and not just after the last one was written.
                    await asyncio.sleep(self._bench.order.random() * batch_seconds)
                    process.kill()
                code = await process.wait()
            before, kept = kept, await self._kept()
            read = self._counted()
            if last and (code or kept != self._number or before + read != kept):
                raise BenchmarkError("the backfill that was killed did not go on to its end from where it was")
            if not last:
                twice.append(float(before + read - kept))
        reread = compared(
            twice, [float(DOCUMENTS_MAX)] * _KILLS, of="read twice", against="a batch", at_most=BATCHES_AT_MOST
        )
        return [
            Figure("a kill", 1, "read twice", statistics.median(twice), (reread,), unit="documents"),
            Figure("a kill", 1, "start to batch", statistics.median(starts) * 1e3, unit="ms"),
        ]

    async def _emptied(self) -> None:
        await truncate(self._bench.url)
        connection = await asyncpg.connect(self._bench.url)
        try:
            await connection.execute(f"TRUNCATE {', '.join(_BOOK)}")
        finally:
            await connection.close()
        await settle(self._bench.url)

    async def _backfill(self, dump: Path, number: int) -> tuple[float, float]:
        """Gives the seconds and the peak of a backfill."""
        told, *_, weighed = await self._weighed(dump, "--quarantine", str(self._folder / "quarantine"))
        if told.get("added") != number:
            raise BenchmarkError(f"the backfill should bring {number:,} documents: {told}")
        return weighed["seconds"], weighed["peakMegabytes"]

    async def _verify(self) -> float:
        told, *_, weighed = await self._weighed(self._whole, "--verify")
        if not told.get("holds") or told.get("documents") != self._number:
            raise BenchmarkError("what was brought is not what the dump holds")
        return float(weighed["seconds"])

    async def _weighed(self, dump: Path, *options: str) -> list[dict[str, Any]]:
        arguments = (str(self._limit), "backfill", str(dump), "--json", *options)
        program = _HERE.with_name("backfill_memory.py")
        async with _started(program, *arguments, env=self._environment, stdout=PIPE, stderr=PIPE) as process:
            output, said = await process.communicate()
        if process.returncode:
            raise BenchmarkError(f"graphjobs backfill ended with {process.returncode}: {said.decode()[-500:]}")
        return [json.loads(line) for line in output.splitlines()]

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[Process]:
        self._count.write_bytes(bytes(COUNT.size))
        program = _HERE.with_name("killed_backfill.py")
        async with _started(program, str(self._whole), str(self._count), env=self._environment) as process:
            yield process

    def _counted(self) -> int:
        return int(COUNT.unpack(self._count.read_bytes())[0])

    async def _watched(self, process: Process, kept: int, number: int) -> float:
        """Looks at a backfill that begins now and keeps so many already, until it keeps as many as it is to.

        Returns:
            The seconds to its first batch that was kept.
        """
        began, first = time.perf_counter(), 0.0
        connection = await asyncpg.connect(self._bench.url)
        try:
            async with asyncio.timeout(self._limit):
                while kept < number:
                    await asyncio.sleep(_POLL_SECONDS)
                    documents = await _documents(connection)
                    if documents > kept:
                        first = first or time.perf_counter() - began
                        kept = documents
                    if process.returncode is not None and kept < number:
                        raise BenchmarkError("the backfill ended before it was to")
        finally:
            await connection.close()
        return first

    async def _kept(self) -> int:
        """Gives how many documents are kept, once the server has noticed that their process is gone."""
        connection = await asyncpg.connect(self._bench.url)
        try:
            async with asyncio.timeout(self._limit):
                await _alone(connection)
            return await _documents(connection)
        finally:
            await connection.close()


_OTHERS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@asynccontextmanager
async def _started(program: Path, *arguments: str, **options: Any) -> AsyncIterator[Process]:
    """A program of the benchmarks, which is not left behind."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), *arguments, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _alone(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Waits until nobody else is there: what was sent last may still be committed."""
    others = True
    while others:
        await asyncio.sleep(_POLL_SECONDS)
        others = bool(await connection.fetchval(_OTHERS))


async def _documents(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    counts = await connection.fetchval(f"SELECT counts FROM {_BOOK[0]}")
    return int(json.loads(counts)["documents"]) if counts else 0


def _rates(rounds: _Rounds) -> list[Figure]:
    unit = "documents/s"
    of_copy = compared(rounds.backfill, rounds.copy, of=BACKFILL, against=COPY, at_least=OF_COPY_AT_LEAST)
    of_backfill = compared(rounds.verify, rounds.backfill, of=VERIFY, against=BACKFILL, at_least=OF_BACKFILL_AT_LEAST)
    return [
        Figure("move", 1, BACKFILL, statistics.median(rounds.backfill), (of_copy,), unit=unit),
        Figure("move", 1, COPY, statistics.median(rounds.copy), unit=unit),
        Figure("move", 1, VERIFY, statistics.median(rounds.verify), (of_backfill,), unit=unit),
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
