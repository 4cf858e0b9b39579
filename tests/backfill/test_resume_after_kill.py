"""A backfill that is killed at any moment goes on where it was: nothing is lost, and nothing comes twice."""

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
from tests.backfill.dumps import Outcome
from tests.backfill.tables import rows_of, waiting
from tests.migrations.cli_tools import SECONDS_MAX, ask, beside_python, environment, graphjobs

_READ = "SELECT coalesce(sum((counts::json->>'documents')::int), 0) FROM scheduler.backfill_checkpoints"
# Not SIGINT: where the tests run in the background of a shell, what they start takes no notice of it.
_WORDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
_ENDS = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}


def _killed_on_its_way(word: signal.Signals, seconds: float, *arguments: str, url: str) -> None:
    """Runs `graphjobs` until it has written something, and so long; then ends it, which it does without a word."""
    before = int(ask(url, _READ))
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
        process.send_signal(word)
        _, said = process.communicate(timeout=SECONDS_MAX)
    assert (_ENDS[word], b"") == (process.returncode, said)


async def _until_more_is_read(url: str, before: int) -> None:
    """Looks often enough to see the first batch before there are many."""
    async with asyncio.timeout(SECONDS_MAX):
        connection = await asyncpg.connect(url)
        try:
            while await connection.fetchval(_READ) == before:
                await asyncio.sleep(0.005)
        finally:
            await connection.close(timeout=10)


@pytest.mark.parametrize("form", ["bson", "bson.gz"])
def test_killed_at_random_moments_it_comes_to_its_end(graphjobs_database_url: str, tmp_path: Path, form: str) -> None:
    """Each run goes on from the last batch that was written; then all is there, once, and the check says so."""
    made = dumps.generate(9_000, 21, dirty=2)
    dumps.write_files(tmp_path / "dump", made, form)
    url, random = graphjobs_database_url, Random(9)  # noqa: S311  # moments
    arguments = ("backfill", str(tmp_path / "dump"), "--quarantine", str(tmp_path / "files"))
    read = 0
    for word in _WORDS:
        _killed_on_its_way(word, random.uniform(0, 0.08), *arguments, url=url)
        now = int(ask(url, _READ))
        assert read < now < len(made)
        read = now
    assert 1 == graphjobs(*arguments, url=url).returncode
    refused = [each for each in made if each.outcome is Outcome.REJECTED]
    assert len(made) == int(ask(url, _READ))
    for name, table in ((dumps.JOBS, "graph_jobs"), (dumps.RUNS, "policy_runs"), (dumps.EVENTS, "graph_job_events")):
        come = [each for each in made if each.collection == name and each.outcome is not Outcome.REJECTED]
        assert len(come) == len(rows_of(url, table))
    assert len(refused) == len(waiting(url))
    lines = [line for path in (tmp_path / "files").iterdir() for line in path.read_text().splitlines()]
    assert len(refused) == len(lines)
    checked = graphjobs("backfill", str(tmp_path / "dump"), "--verify", "--json", url=url)
    whole: dict[str, Any] = json.loads(checked.stdout.splitlines()[0])
    assert (True, {}, len(refused)) == (whole["holds"], whole["differences"], whole["waiting"])
