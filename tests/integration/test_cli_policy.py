"""`graphjobs policy` as a shell meets it: what it prints, for people and for programs, and what its exit codes are."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from graphjobs import PolicyRunJob, PolicyRunStatus
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, policy_run
from tests.migrations.cli_tools import Done, ask, many_graphjobs

Status = PolicyRunStatus

Command: TypeAlias = Callable[..., Done]

_DEEP = '{"a":' * 5_000 + "1" + "}" * 5_000


@pytest.fixture(scope="module")
def forked() -> Iterator[Command]:
    """The command."""
    with many_graphjobs() as command:
        yield command


@pytest.fixture
def policy(forked: Command, shared_settings: Settings, tenant: str) -> Command:
    """`graphjobs policy` for this test's tenant, on the shared database."""
    assert shared_settings.database_url is not None
    url = shared_settings.database_url.get_secret_value()

    def call(verb: str, *arguments: str, tenant: str = tenant) -> Done:
        return forked("policy", verb, "--tenant", tenant, *arguments, url=url)

    return call


def _lines(done: Done) -> list[dict[str, Any]]:
    """What a command that works printed, a line of JSON each."""
    assert (0, "") == (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _said(done: Done) -> str:
    """What a command that works told people."""
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def _refused(done: Done, *words: str, code: int = 1) -> None:
    """It ended with that code and one sentence that holds these words."""
    assert (code, "") == (done.returncode, done.stdout), done.stderr
    assert done.stderr.startswith("graphjobs: ")
    assert 1 == done.stderr.count("\n")
    assert [] == [word for word in words if word not in done.stderr], done.stderr


async def _stored(storage: Storage, tenant: str, status: PolicyRunStatus, run_id: str) -> PolicyRunJob:
    """A run of this status and name."""
    run = policy_run(tenant, run_id=run_id)
    leased = run.lease(at=AT, owner="the owner", until=AT)
    of = {
        Status.PENDING: run,
        Status.DISPATCHING: leased,
        Status.SUBMITTED: leased.submit(at=AT),
        Status.COMPLETED: leased.submit(at=AT).complete(at=AT),
        Status.FAILED: leased.fail(at=AT, error="it broke"),
        Status.CANCELED: run.cancel(at=AT),
    }
    return await storage.policy_runs.insert(of[status])


async def test_a_run_is_asked_for_with_all_its_options(policy: Command, storage: Storage, tenant: str) -> None:
    """What was said is stored, by an actor of its own; asked for again it is the same run."""
    said = (
        *("P-7", "--mode", "incremental", "--priority", "emergency", "--policy-version", "3", "--run-id", "nightly"),
        *("--sbom", "b", "--sbom", "a", "--environment", '{"stage": ["prod", null]}', "--metadata", "a=b=c"),
        *("--metadata", "d=é", "--requested-by", "ada", "--correlation-id", "c", "--capture-explain", "--json"),
        *("--advisory-cursor", "2026-01-01T00:00:00Z", "--vex-cursor", "2026-01-01T01:00:00+01:00"),
        *("--queued-at", "2026-01-02T03:04:05Z"),
    )
    first, again = _lines(policy("submit", *said)), _lines(policy("submit", *said))
    expected = {
        "tenantId": tenant,
        "runId": "nightly",
        "policyId": "P-7",
        "policyVersion": 3,
        "mode": "incremental",
        "priority": "emergency",
        "status": "queued",
        "requestedBy": "ada",
        "correlationId": "c",
        "metadata": {"a": "b=c", "d": "é"},
        "queuedAt": "2026-01-02T03:04:05Z",
        "inputs": {
            "sbomSet": ["a", "b"],
            "advisoryCursor": "2026-01-01T00:00:00Z",
            "vexCursor": "2026-01-01T00:00:00Z",
            "environment": {"stage": ["prod", None]},
            "captureExplain": True,
        },
    }
    assert first == again
    assert expected.items() <= first[0].items()
    run = await storage.policy_runs.get_by_run_id(tenant, "nightly")
    assert run is not None
    assert ["cli"] == [event.payload["actor"] for event in await storage.policy_runs.events(tenant, run.id)]


def test_what_is_not_said_is_a_full_run_of_normal_priority(policy: Command) -> None:
    """For people it is one line, that begins with the run's name."""
    said = _said(policy("submit", "P-7"))
    assert re.fullmatch(r"run:[0-9a-f-]{36} is queued\n", said)
    (run,) = _lines(policy("list", "--json"))
    assert ("full", "normal", said.split()[0]) == (run["mode"], run["priority"], run["runId"])


def test_the_environment_may_stand_in_a_file(policy: Command, tmp_path: Path) -> None:
    """As it can for many a tool, by an @ before its path."""
    file = tmp_path / "environment.json"
    file.write_text('{"from": "a file"}')
    (run,) = _lines(policy("submit", "P-7", "--environment", f"@{file}", "--json"))
    assert {"from": "a file"} == run["inputs"]["environment"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--environment", "{"), ["--environment", "no JSON"]),
        (("--environment", "[1]"), ["--environment", "object"]),
        (("--environment", '{"a": NaN}'), ["--environment: ", "finite"]),
        (("--environment", '{"a": 1e400}'), ["--environment", "finite"]),
        (("--environment", '{"a": "\\u0000"}'), ["--environment", "NUL"]),
        (("--environment", _DEEP), ["--environment", "JSON must not nest deeper than 200 levels"]),
        (("--environment", '{"a":' * 33 + "1" + "}" * 33), ["--environment", "32 levels"]),
        (("--environment", '{"a": "%s"}' % ("x" * 66_560)), ["--environment", "65536"]),
        (("--environment", "\udcff"), ["--environment"]),
        (("--environment", "@/nowhere/file"), ["--environment", "/nowhere/file", "No such file"]),
        (("--environment", "@/dev/zero"), ["--environment", "/dev/zero", "1,048,576"]),
        (("--metadata", "a"), ["--metadata", "KEY=VALUE"]),
        (("--metadata", "a=1", "--metadata", "a=2"), ["--metadata", "twice"]),
        (("--metadata", "a="), ["--metadata: ", "4,096"]),
        (("--run-id", "a\nb"), ["--run-id"]),
        (("--run-id", ""), ["--run-id"]),
        (("--sbom", "x" * 257), ["--sbom: "]),
        (("--policy-version", "-1"), ["--policy-version"]),
        (("--requested-by", ""), ["--requested-by"]),
        (("--correlation-id", "\udcff"), ["--correlation-id"]),
        (("--tenant", ""), ["--tenant"]),
        (("--mode", "incremental"), ["incremental", "sbomSet"]),
    ],
)
async def test_what_cannot_be_is_one_sentence_that_names_the_option(
    policy: Command, storage: Storage, tenant: str, options: tuple[str, ...], words: list[str]
) -> None:
    """And nothing is stored."""
    _refused(policy("submit", "P-7", *options), *words)
    assert () == (await storage.policy_runs.list(tenant)).runs


def test_an_argument_that_cannot_be_is_named_by_its_own_word(policy: Command) -> None:
    """No option is blamed for it."""
    _refused(policy("submit", ""), "POLICY_ID: must be text")
    for verb in ("show", "cancel", "retry"):
        _refused(policy(verb, "x" * 257), "RUN_ID: must be text")
    _refused(policy("retry", "x", "--run-id", ""), "--run-id: must be text")
    _refused(policy("cancel", "x", "--tenant", "\x07"), "--tenant: must be text")


async def test_runs_are_listed_by_the_words_of_the_outside(policy: Command, storage: Storage, tenant: str) -> None:
    """Any filters go together; running has two statuses of the inside."""
    for status in PolicyRunStatus:
        await _stored(storage, tenant, status, f"{status}")

    def found(*options: str) -> list[str]:
        return sorted(run["runId"] for run in _lines(policy("list", "--json", *options)))

    assert sorted(PolicyRunStatus) == found()
    for word in ("queued", "running", "succeeded", "failed", "canceled"):
        assert sorted(status for status in PolicyRunStatus if status.public_status == word) == found("--status", word)
    assert ["canceled", "pending"] == found("--status", "queued", "--status", "canceled", "--policy", "P-7")
    assert [] == found("--mode", "simulate")
    assert [] == found("--policy", "other")
    assert sorted(PolicyRunStatus) == found("--queued-after", "2026-01-02T03:04:05Z")
    assert [] == found("--queued-after", "2026-01-02T04:04:06+01:00")


def test_a_list_goes_on_by_its_cursor(policy: Command) -> None:
    """It is the last line of JSON, and for people stands beside the table."""
    made = [_lines(policy("submit", "P-7", "--run-id", f"r{number}", "--json"))[0] for number in range(3)]
    *page, more = _lines(policy("list", "--limit", "2", "--json"))
    rest = _lines(policy("list", "--cursor", more["nextCursor"], "--json"))
    shown = policy("list", "--limit", "2")
    assert list(reversed(made)) == page + rest
    assert (0, f"there are more: --cursor {more['nextCursor']}\n") == (shown.returncode, shown.stderr)


def test_a_table_that_is_piped_breaks_no_name(policy: Command) -> None:
    """However long, and whatever it holds: a line is a run, and what is no markup is not taken for it."""
    names = ["x" * 256, "漢" * 256, "[bold]no markup[/bold] :smile:", "a b"]
    for name in names:
        _said(policy("submit", "P" * 256, "--run-id", name, "--priority", "high"))
    head, *rows = _said(policy("list")).splitlines()
    assert ["run", "policy", "mode", "priority", "status", "attempts", "queued at (UTC)"] == re.split(
        r" {2,}", head.rstrip()
    )
    assert 4 == len(rows)
    for name, row in zip(reversed(names), rows, strict=True):
        assert row.startswith(f"{name} ")
        assert ["P" * 256, "full", "high", "queued", "0"] == row[len(name) :].split()[:5]
    assert names[0] in _said(policy("show", names[0]))


async def test_a_run_is_shown_with_its_log(policy: Command, storage: Storage, tenant: str) -> None:
    """All of it, as a table each or as lines; the log has the words of the inside."""
    run = await storage.policy_runs.insert(policy_run(tenant, run_id="a/b"), actor="somebody")
    leased = await storage.policy_runs.replace(run.lease(at=AT, owner="the owner", until=AT), None, actor="the owner")
    assert leased.job is not None
    await storage.policy_runs.replace(leased.job.fail(at=AT, error="it broke\nbadly"), "the owner")
    record, *log = _lines(policy("show", "a/b", "--json"))
    shown = _said(policy("show", "a/b"))
    assert ("a/b", "failed", "it broke\nbadly", 1) == (
        record["runId"],
        record["status"],
        record["lastError"],
        record["attempts"],
    )
    assert ["pending", "dispatching", "failed"] == [event["status"] for event in log]
    assert ["somebody", "the owner"] == [event["payload"]["actor"] for event in log[:2]]
    for word in ("a/b", "failed", "it broke", "badly", "somebody", "dispatching", "the owner"):
        assert word in shown


async def test_a_long_log_is_read_to_its_end(
    policy: Command, storage: Storage, tenant: str, shared_settings: Settings
) -> None:
    """Though one look reads 1,000 entries."""
    run = await storage.policy_runs.insert(policy_run(tenant, run_id="busy"))
    assert shared_settings.database_url is not None
    ask(
        shared_settings.database_url.get_secret_value(),
        "INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload)"
        f" SELECT '{run.id}', '{tenant}', 0, jsonb_build_object('number', n) FROM generate_series(1, 2100) AS n",
    )
    _, _, *log = _lines(policy("show", "busy", "--json"))
    assert list(range(1, 2_101)) == [event["payload"]["number"] for event in log]


async def test_a_run_is_canceled_and_asked_to_end(policy: Command, storage: Storage, tenant: str) -> None:
    """A queued one is, one that is running is asked; as often as one likes; one that has ended refuses."""
    for status in (Status.PENDING, Status.SUBMITTED, Status.COMPLETED):
        await _stored(storage, tenant, status, status)
    assert "pending is canceled\n" == _said(policy("cancel", "pending", "--reason", "not needed"))
    assert "pending is canceled\n" == _said(policy("cancel", "pending", "--reason", "another"))
    assert "submitted is running, and its end is asked for\n" == _said(policy("cancel", "submitted"))
    (run,) = _lines(policy("cancel", "pending", "--json"))
    assert ("canceled", "not needed") == (run["status"], run["cancellationReason"])
    _refused(policy("cancel", "completed"), "already completed, and final")
    _refused(policy("cancel", "missing"), tenant, "missing")


async def test_a_run_that_has_ended_is_retried(policy: Command, storage: Storage, tenant: str) -> None:
    """By a new one, that names it; with a name there is one of it."""
    for status in (Status.PENDING, Status.FAILED):
        await _stored(storage, tenant, status, status)
    assert "again is queued, in place of failed\n" == _said(policy("retry", "failed", "--run-id", "again"))
    (run,) = _lines(policy("retry", "failed", "--run-id", "again", "--json"))
    assert ("again", {"retryOf": "failed"}) == (run["runId"], run["metadata"])
    _refused(policy("retry", "pending"), "retry it when it is completed, failed or canceled")
    _refused(policy("retry", "failed", "--run-id", "pending"), "'pending'", "another request")
    _refused(policy("submit", "P-8", "--run-id", "again"), "'again'", "another request")


def test_another_tenants_run_is_not_found(policy: Command) -> None:
    """Whichever verb asks."""
    _said(policy("submit", "P-7", "--run-id", "theirs"))
    for verb in ("show", "cancel", "retry"):
        _refused(policy(verb, "theirs", tenant="stranger"), "tenant 'stranger' has no policy run theirs")
    assert [] == _lines(policy("list", "--json", tenant="stranger"))


def test_a_list_that_cannot_be_asked_for_says_why(policy: Command) -> None:
    """A time is one sentence, a word that is none the shell's own error."""
    for time in ("yesterday", "2026-01-02T03:04:05", "20", ""):
        _refused(policy("list", "--queued-after", time), "--queued-after", "offset")
        for of in ("--queued-at", "--advisory-cursor", "--vex-cursor"):
            _refused(policy("submit", "P-7", of, time), of, "offset")
    _refused(policy("list", "--cursor", "bogus"), "--cursor")
    _refused(policy("list", "--policy", ""), "--policy")
    for option in (("--status", "pending"), ("--mode", "slow"), ("--limit", "0"), ("--limit", "1001")):
        done = policy("list", *option)
        assert (2, "") == (done.returncode, done.stdout)
        assert option[0] in done.stderr
        assert "Traceback" not in done.stderr


def test_a_row_that_cannot_be_read_is_told_of(forked: Command, graphjobs_database_url: str) -> None:
    """Beside the others, as a line of its own; asked for alone it is an error."""
    run, bad = [
        _lines(forked("policy", "submit", "P", "--tenant", "t", "--json", url=graphjobs_database_url))[0]
        for _ in range(2)
    ]
    ask(graphjobs_database_url, f"UPDATE scheduler.policy_runs SET payload = '{{\"x\": 1}}' WHERE id = '{bad['id']}'")
    found = _lines(forked("policy", "list", "--tenant", "t", "--json", url=graphjobs_database_url))
    shown = forked("policy", "list", "--tenant", "t", url=graphjobs_database_url)
    alone = forked("policy", "show", bad["runId"], "--tenant", "t", url=graphjobs_database_url)
    assert [run, {"unreadable": {"id": bad["id"], "reason": found[1]["unreadable"]["reason"]}}] == found
    assert (0, 2) == (shown.returncode, len(shown.stdout.splitlines()))
    assert bad["id"] in shown.stderr
    _refused(alone, bad["id"])


def test_a_database_that_is_away_ends_with_4(forked: Command) -> None:
    """Whatever is asked."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    for call in (("submit", "P"), ("list",), ("show", "x"), ("cancel", "x"), ("retry", "x")):
        _refused(forked("policy", *call, "--tenant", "t", url=away), "no PostgreSQL answers", code=4)
