"""The keys that commands print with `--json` are the committed ones: scripts read them."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.builders import policy_run
from tests.migrations.cli_tools import Done, ask, many_graphjobs
from tests.snapshots.interfaces import CLI_KEYS

Command: TypeAlias = Callable[..., Done]


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command, each call a process of its own."""
    with many_graphjobs() as command:
        yield command


def _keys(value: Any) -> Any:
    """Return the structure of a record: its keys, with data keys such as names of differences left out."""
    if isinstance(value, dict):
        return {key: {} if key in ("differences", "metadata") else _keys(item) for key, item in value.items()}
    return "list" if isinstance(value, list) else "value"


def _records(done: Done, *, codes: tuple[int, ...] = (0, 1)) -> list[Any]:
    """Return each kind of record that a command printed, once, in a fixed order."""
    assert done.returncode in codes, done.stderr
    kinds = {json.dumps(_keys(json.loads(line)), sort_keys=True) for line in done.stdout.splitlines()}
    return [json.loads(kind) for kind in sorted(kinds)]


async def test_the_keys_of_every_command_are_the_committed_ones(
    graphjobs: Command, graphjobs_storage: Storage, graphjobs_database_url: str, tmp_path: Path
) -> None:
    """Every command that has `--json` is run such that each kind of its records is printed."""
    url, source = graphjobs_database_url, tmp_path / "source"
    source.mkdir()
    dumps.write_files(source, dumps.generate(300, 11, dirty=8))
    await graphjobs_storage.policy_runs.insert(policy_run("acme", run_id="first"))
    await graphjobs_storage.policy_runs.insert(policy_run("acme", run_id="unreadable"))

    def policy(verb: str, *arguments: str) -> Done:
        return graphjobs("policy", verb, "--tenant", "acme", *arguments, "--json", url=url)

    quarantine = ("--quarantine", str(tmp_path / "quarantine"))
    found: dict[str, list[Any]] = {
        "backfill --dry-run": _records(graphjobs("backfill", str(source), "--dry-run", "--json", url=url)),
        "backfill": _records(graphjobs("backfill", str(source), *quarantine, "--json", url=url)),
        "quarantine list": _records(graphjobs("quarantine", "list", "--json", url=url)),
        "policy submit": _records(policy("submit", "P-7", "--run-id", "second"), codes=(0,)),
        "policy show": _records(policy("show", "second"), codes=(0,)),
        "policy cancel": _records(policy("cancel", "second", "--reason", "late"), codes=(0,)),
        "policy retry": _records(policy("retry", "second"), codes=(0,)),
    }
    # A row is gone that the source has, and one cannot be read, so that these kinds of records are there too.
    ask(url, "DELETE FROM scheduler.graph_jobs WHERE id IN (SELECT id FROM scheduler.graph_jobs LIMIT 1)")
    ask(url, "UPDATE scheduler.policy_runs SET payload = '[]' WHERE run_id = 'unreadable'")
    found["backfill --verify"] = _records(graphjobs("backfill", str(source), "--verify", "--json", url=url))
    found["policy list"] = _records(policy("list", "--limit", "3"), codes=(0,))
    found["export"] = _records(graphjobs("export", str(tmp_path / "export"), "--json", url=url))
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if os.environ.get("GRAPHJOBS_TEST_WRITE_SNAPSHOTS"):
        CLI_KEYS.write_text(text, encoding="utf-8")
    assert CLI_KEYS.read_text(encoding="utf-8") == text, "run `make snapshots`, and read what `git diff` then shows"
