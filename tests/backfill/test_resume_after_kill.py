"""A backfill that is killed at any time resumes: no document is lost or imported twice."""

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from tests.backfill import dumps
from tests.backfill.tables import DOCUMENTS_READ, imported_of, pending_entries, rejected_of, rows_of
from tests.migrations.cli_tools import SECONDS_MAX, ask, beside_python, environment, graphjobs

# Not SIGINT: processes that tests start in the background of a shell ignore it.
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
_EXIT_CODES = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}


def _run_and_kill(number: signal.Signals, seconds: float, *arguments: str, url: str) -> None:
    """Run `graphjobs` until it has written a batch, and for some seconds more; then end it. It prints no error."""
    before = int(ask(url, DOCUMENTS_READ))
    process = subprocess.Popen(
        [beside_python("graphjobs"), *arguments],
        env=environment(GRAPHJOBS_DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        asyncio.run(_until_more_is_read(url, before))
        time.sleep(seconds)
    finally:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=SECONDS_MAX)
    # A slow machine leaves time for lines of progress.
    assert (_EXIT_CODES[number], []) == (
        process.returncode,
        [line for line in stderr.decode().splitlines() if " documents, " not in line],
    )


async def _until_more_is_read(url: str, before: int) -> None:
    """Poll often enough to see the first batch before there are many."""
    async with asyncio.timeout(SECONDS_MAX):
        connection = await asyncpg.connect(url)
        try:
            while await connection.fetchval(DOCUMENTS_READ) == before:
                await asyncio.sleep(0.005)
        finally:
            await connection.close(timeout=10)


@pytest.mark.parametrize("form", ["bson", "bson.gz"])
def test_a_backfill_killed_at_random_moments_completes(url: str, tmp_path: Path, form: str) -> None:
    """Each run resumes after the last written batch. In the end all is imported once, and verified."""
    generated = dumps.generate(9_000, 21, dirty=2)
    dumps.write_files(tmp_path / "dump", generated, form)
    random = Random(9)  # noqa: S311  # moments
    arguments = ("backfill", str(tmp_path / "dump"), "--quarantine", str(tmp_path / "files"))
    documents = 0
    for number in _SIGNALS:
        _run_and_kill(number, random.uniform(0, 0.08), *arguments, url=url)
        now = int(ask(url, DOCUMENTS_READ))
        assert documents < now < len(generated)
        documents = now
    assert 1 == graphjobs(*arguments, url=url).returncode
    rejected = rejected_of(generated)
    assert len(generated) == int(ask(url, DOCUMENTS_READ))
    for name, table in ((dumps.JOBS, "graph_jobs"), (dumps.RUNS, "policy_runs"), (dumps.EVENTS, "graph_job_events")):
        imported = [document for document in imported_of(generated) if document.collection == name]
        assert len(imported) == len(rows_of(url, table))
    assert len(rejected) == len(pending_entries(url))
    lines = [line for path in (tmp_path / "files").glob("[!.]*") for line in path.read_text().splitlines()]
    assert len(rejected) == len(lines)
    verified = graphjobs("backfill", str(tmp_path / "dump"), "--verify", "--json", url=url)
    totals: dict[str, Any] = json.loads(verified.stdout.splitlines()[0])
    assert (True, {}, len(rejected)) == (totals["ok"], totals["differences"], totals["pending"])
