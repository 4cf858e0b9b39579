"""The output of `graphjobs policy`, as text and as JSON, and its exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from graphjobs import PolicyRunJob, PolicyRunStatus
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, policy_run
from tests.migrations.cli_tools import Command, Done, ask, assert_failed

Status = PolicyRunStatus

_DEEP = '{"a":' * 5_000 + "1" + "}" * 5_000


@pytest.fixture
def policy(graphjobs: Command, shared_settings: Settings, tenant: str) -> Command:
    """`graphjobs policy` for this test's tenant, on the shared database."""
    assert shared_settings.database_url is not None
    url = shared_settings.database_url.get_secret_value()

    def call(verb: str, *arguments: str, tenant: str = tenant) -> Done:
        return graphjobs("policy", verb, "--tenant", tenant, *arguments, url=url)

    return call


def _lines(done: Done) -> list[dict[str, Any]]:
    """Return the JSON lines of a successful command."""
    assert (0, "") == (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _text(done: Done) -> str:
    """Return the output of a successful command."""
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


async def _stored(storage: Storage, tenant: str, status: PolicyRunStatus, run_id: str) -> PolicyRunJob:
    """Insert a run with a status and a run id."""
    run = policy_run(tenant, run_id=run_id)
    leased = run.lease(at=AT, owner="the owner", until=AT)
    runs = {
        Status.PENDING: run,
        Status.DISPATCHING: leased,
        Status.SUBMITTED: leased.submit(at=AT),
        Status.COMPLETED: leased.submit(at=AT).complete(at=AT),
        Status.FAILED: leased.fail(at=AT, error="it broke"),
        Status.CANCELED: run.cancel(at=AT),
    }
    return await storage.policy_runs.insert(runs[status])


async def test_a_run_is_submitted_with_all_options(policy: Command, storage: Storage, tenant: str) -> None:
    options = (
        *("P-7", "--mode", "incremental", "--priority", "emergency", "--policy-version", "3", "--run-id", "nightly"),
        *("--sbom", "b", "--sbom", "a", "--environment", '{"stage": ["prod", null]}', "--metadata", "a=b=c"),
        *("--metadata", "d=é", "--requested-by", "ada", "--correlation-id", "c", "--capture-explain", "--json"),
        *("--advisory-cursor", "2026-01-01T00:00:00Z", "--vex-cursor", "2026-01-01T01:00:00+01:00"),
        *("--queued-at", "2026-01-02T03:04:05Z"),
    )
    first, repeated = [_lines(policy("submit", *options)) for _ in range(2)]
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
    assert first == repeated
    assert expected.items() <= first[0].items()
    run = await storage.policy_runs.get_by_run_id(tenant, "nightly")
    assert run is not None
    assert ["cli"] == [event.payload["actor"] for event in await storage.policy_runs.events(tenant, run.id)]


def test_a_run_is_by_default_full_with_normal_priority(policy: Command) -> None:
    text = _text(policy("submit", "P-7"))
    assert re.fullmatch(r"run:[0-9a-f-]{36} is queued\n", text)
    (run,) = _lines(policy("list", "--json"))
    assert ("full", "normal", text.split()[0]) == (run["mode"], run["priority"], run["runId"])


def test_the_environment_may_be_a_file(policy: Command, tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    file.write_text('{"from": "a file"}')
    (run,) = _lines(policy("submit", "P-7", "--environment", f"@{file}", "--json"))
    assert {"from": "a file"} == run["inputs"]["environment"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--environment", "{"), ["--environment", "must be JSON"]),
        (("--environment", "[1]"), ["--environment", "object"]),
        (("--environment", '{"a": NaN}'), ["--environment: ", "finite"]),
        (("--environment", '{"a": 1e400}'), ["--environment", "finite"]),
        (("--environment", '{"a": "\\u0000"}'), ["--environment", "NUL"]),
        (("--environment", _DEEP), ["--environment", "JSON must not nest deeper than 200 levels"]),
        (("--environment", '{"a":' * 33 + "1" + "}" * 33), ["--environment", "32 levels"]),
        (("--environment", '{"a": "%s"}' % ("x" * 66_560)), ["--environment: ", "65,536"]),
        (("--environment", "\udcff"), ["--environment"]),
        (("--environment", "@/nowhere/file"), ["--environment", "/nowhere/file", "No such file"]),
        (("--environment", "@/dev/zero"), ["--environment", "/dev/zero", "1,048,576"]),
        (("--metadata", "a"), ["--metadata", "KEY=VALUE"]),
        (("--metadata", "a=1", "--metadata", "a=2"), ["--metadata", "twice"]),
        (("--metadata", "a="), ["--metadata must", "4,096"]),
        (("--run-id", "a\nb"), ["--run-id"]),
        (("--run-id", ""), ["--run-id"]),
        (("--sbom", "x" * 257), ["--sbom must"]),
        (("--policy-version", "-1"), ["--policy-version"]),
        (("--requested-by", ""), ["--requested-by"]),
        (("--correlation-id", "\udcff"), ["--correlation-id"]),
        (("--tenant", ""), ["--tenant"]),
        (("--mode", "incremental"), ["incremental", "sbomSet"]),
    ],
)
async def test_an_invalid_option_is_one_sentence_with_its_name(
    policy: Command, storage: Storage, tenant: str, options: tuple[str, ...], words: list[str]
) -> None:
    assert_failed(policy("submit", "P-7", *options), *words, code=2)
    assert () == (await storage.policy_runs.list(tenant)).runs


def test_an_invalid_argument_is_named_by_its_metavar(policy: Command) -> None:
    assert_failed(policy("submit", ""), "POLICY_ID must be text", code=2)
    for verb in ("show", "cancel", "retry"):
        assert_failed(policy(verb, "x" * 257), "RUN_ID must be text", code=2)
    assert_failed(policy("retry", "x", "--run-id", ""), "--run-id must be text", code=2)
    assert_failed(policy("cancel", "x", "--tenant", "\x07"), "--tenant must be text", code=2)


async def test_runs_are_listed_by_public_status(policy: Command, storage: Storage, tenant: str) -> None:
    for status in PolicyRunStatus:
        await _stored(storage, tenant, status, f"{status}")

    def listed(*options: str) -> list[str]:
        return sorted(run["runId"] for run in _lines(policy("list", "--json", *options)))

    assert sorted(PolicyRunStatus) == listed()
    for public in ("queued", "running", "succeeded", "failed", "canceled"):
        assert sorted(status for status in PolicyRunStatus if status.public_status == public) == listed(
            "--status", public
        )
    assert ["canceled", "pending"] == listed("--status", "queued", "--status", "canceled", "--policy", "P-7")
    assert [] == listed("--mode", "simulate")
    assert [] == listed("--policy", "other")
    assert sorted(PolicyRunStatus) == listed("--queued-after", "2026-01-02T03:04:05Z")
    assert [] == listed("--queued-after", "2026-01-02T04:04:06+01:00")


def test_a_list_continues_by_its_cursor(policy: Command) -> None:
    submitted = [_lines(policy("submit", "P-7", "--run-id", f"r{number}", "--json"))[0] for number in range(3)]
    *page, more = _lines(policy("list", "--limit", "2", "--json"))
    rest = _lines(policy("list", "--cursor", more["nextCursor"], "--json"))
    shown = policy("list", "--limit", "2")
    assert list(reversed(submitted)) == page + rest
    assert (0, f"for the next page, add --cursor {more['nextCursor']}\n") == (shown.returncode, shown.stderr)


def test_a_piped_table_wraps_no_cell(policy: Command) -> None:
    """Each line is one run, also with long names and with markup of rich."""
    names = ["x" * 256, "漢" * 256, "[bold]no markup[/bold] :smile:", "a b"]
    for name in names:
        _text(policy("submit", "P" * 256, "--run-id", name, "--priority", "high"))
    head, *rows = _text(policy("list")).splitlines()
    assert ["run", "policy", "mode", "priority", "status", "attempts", "queued at (UTC)"] == re.split(
        r" {2,}", head.rstrip()
    )
    assert 4 == len(rows)
    for name, row in zip(reversed(names), rows, strict=True):
        assert row.startswith(f"{name} ")
        assert ["P" * 256, "full", "high", "queued", "0"] == row[len(name) :].split()[:5]
    assert names[0] in _text(policy("show", names[0]))


async def test_a_run_is_shown_with_its_events(policy: Command, storage: Storage, tenant: str) -> None:
    run = await storage.policy_runs.insert(policy_run(tenant, run_id="a/b"), actor="ada")
    leased = await storage.policy_runs.replace(run.lease(at=AT, owner="the owner", until=AT), None, actor="the owner")
    assert leased.job is not None
    await storage.policy_runs.replace(leased.job.fail(at=AT, error="it broke\nbadly"), "the owner")
    record, *events = _lines(policy("show", "a/b", "--json"))
    shown = _text(policy("show", "a/b"))
    assert ("a/b", "failed", "it broke\nbadly", 1) == (
        record["runId"],
        record["status"],
        record["lastError"],
        record["attempts"],
    )
    assert ["pending", "dispatching", "failed"] == [event["status"] for event in events]
    assert ["ada", "the owner"] == [event["payload"]["actor"] for event in events[:2]]
    for word in ("a/b", "failed", "it broke", "badly", "ada", "dispatching", "the owner"):
        assert word in shown


async def test_all_events_of_a_run_are_shown(
    policy: Command, storage: Storage, tenant: str, shared_settings: Settings
) -> None:
    run = await storage.policy_runs.insert(policy_run(tenant, run_id="busy"))
    assert shared_settings.database_url is not None
    ask(
        shared_settings.database_url.get_secret_value(),
        "INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload)"
        f" SELECT '{run.id}', '{tenant}', 0, jsonb_build_object('number', n) FROM generate_series(1, 2100) AS n",
    )
    _, _, *events = _lines(policy("show", "busy", "--json"))
    assert list(range(1, 2_101)) == [event["payload"]["number"] for event in events]


async def test_a_run_is_canceled_or_its_cancellation_is_requested(
    policy: Command, storage: Storage, tenant: str
) -> None:
    for status in (Status.PENDING, Status.SUBMITTED, Status.COMPLETED):
        await _stored(storage, tenant, status, status)
    assert "pending is canceled\n" == _text(policy("cancel", "pending", "--reason", "not needed"))
    assert "pending is canceled\n" == _text(policy("cancel", "pending", "--reason", "another"))
    assert "submitted is running, its cancellation is requested\n" == _text(policy("cancel", "submitted"))
    (run,) = _lines(policy("cancel", "pending", "--json"))
    assert ("canceled", "not needed") == (run["status"], run["cancellationReason"])
    assert_failed(policy("cancel", "completed"), "already completed, and final")
    assert_failed(policy("cancel", "missing"), tenant, "missing")


async def test_a_final_run_is_retried(policy: Command, storage: Storage, tenant: str) -> None:
    """The new run has the old run id in its metadata; repeated calls with a run id add one run."""
    for status in (Status.PENDING, Status.FAILED):
        await _stored(storage, tenant, status, status)
    assert "again is queued, as a retry of failed\n" == _text(policy("retry", "failed", "--run-id", "again"))
    (run,) = _lines(policy("retry", "failed", "--run-id", "again", "--json"))
    assert ("again", {"retryOf": "failed"}) == (run["runId"], run["metadata"])
    assert_failed(policy("retry", "pending"), "only a final run can be retried")
    assert_failed(policy("retry", "failed", "--run-id", "pending"), "'pending'", "another request")
    assert_failed(policy("submit", "P-8", "--run-id", "again"), "'again'", "another request")


def test_another_tenants_run_is_not_listed(policy: Command) -> None:
    _text(policy("submit", "P-7", "--run-id", "theirs"))
    for verb in ("show", "cancel", "retry"):
        assert_failed(policy(verb, "theirs", tenant="stranger"), "tenant 'stranger' has no policy run theirs")
    assert [] == _lines(policy("list", "--json", tenant="stranger"))


def test_an_invalid_filter_is_an_error_with_the_option(policy: Command) -> None:
    for time in ("yesterday", "2026-01-02T03:04:05", "20", ""):
        assert_failed(policy("list", "--queued-after", time), "--queued-after", "offset", code=2)
        for option in ("--queued-at", "--advisory-cursor", "--vex-cursor"):
            assert_failed(policy("submit", "P-7", option, time), option, "offset", code=2)
    assert_failed(policy("list", "--cursor", "bogus"), "--cursor", code=2)
    assert_failed(policy("list", "--policy", ""), "--policy", code=2)
    for options in (("--status", "pending"), ("--mode", "slow"), ("--limit", "0"), ("--limit", "1001")):
        done = policy("list", *options)
        assert (2, "") == (done.returncode, done.stdout)
        assert options[0] in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unreadable_row_is_reported(graphjobs: Command, graphjobs_database_url: str) -> None:
    """A list has a line for it beside the readable rows; a command for it alone fails."""
    run, bad = [
        _lines(graphjobs("policy", "submit", "P", "--tenant", "t", "--json", url=graphjobs_database_url))[0]
        for _ in range(2)
    ]
    ask(graphjobs_database_url, f"UPDATE scheduler.policy_runs SET payload = '{{\"x\": 1}}' WHERE id = '{bad['id']}'")
    listed = _lines(graphjobs("policy", "list", "--tenant", "t", "--json", url=graphjobs_database_url))
    shown = graphjobs("policy", "list", "--tenant", "t", url=graphjobs_database_url)
    alone = graphjobs("policy", "show", bad["runId"], "--tenant", "t", url=graphjobs_database_url)
    assert [run, {"unreadable": {"id": bad["id"], "reason": listed[1]["unreadable"]["reason"]}}] == listed
    assert (0, 2) == (shown.returncode, len(shown.stdout.splitlines()))
    assert bad["id"] in shown.stderr
    assert_failed(alone, bad["id"])


def test_an_unavailable_database_exits_4(graphjobs: Command) -> None:
    unavailable = "postgresql://nobody@127.0.0.1:1/none"
    for call in (("submit", "P"), ("list",), ("show", "x"), ("cancel", "x"), ("retry", "x")):
        assert_failed(graphjobs("policy", *call, "--tenant", "t", url=unavailable), "no PostgreSQL answers", code=4)
