"""The main job end to end: real SBOMs, files that are none, several workers, and a second run beside the first."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphjobs import GraphBuildJob, GraphJobStatus, GraphOverlayJob
from graphjobs.demo.policy import read_policy, shipped_policy
from graphjobs.demo.sbom import read_sbom, shipped_sboms
from graphjobs.demo.workers import TENANTS, Demo, Job, Report
from graphjobs.storage import Storage

Status = GraphJobStatus


async def _run(storage: Storage, paths: list[Path], workers: int = 4) -> Report:
    return await Demo(storage, read_policy(shipped_policy()), workers=workers).run(paths)


async def test_each_shipped_sbom_is_built_and_overlaid_once(graphjobs_storage: Storage) -> None:
    """Whoever does it, each job is started once, ends completed, and its log says so."""
    report = await _run(graphjobs_storage, list(shipped_sboms()), workers=6)
    builds = [job for job in report.finished if isinstance(job, GraphBuildJob)]
    overlays = [job for job in report.finished if isinstance(job, GraphOverlayJob)]
    assert {read_sbom(path).digest for path in shipped_sboms()} == {job.sbom_digest for job in builds}
    assert {job.id for job in builds} == {job.build_job_id for job in overlays}
    assert len(report.finished) == 2 * len(shipped_sboms()) == sum(report.done)
    for job in report.finished:
        assert (job.status, job.attempts) == (Status.COMPLETED, 1)
        events = await graphjobs_storage.graph_job_repository.list_events(job.tenant_id, job.id)
        assert [(e.payload.get("from"), e.payload["to"]) for e in events] == [
            (None, "queued"),
            ("queued", "running"),
            ("running", "completed"),
        ]
    assert any(int(job.metadata["findings"]) > 0 for job in overlays)
    assert any(int(job.metadata["findings"]) == 0 for job in overlays)


async def test_what_was_reported_is_what_is_stored(graphjobs_storage: Storage) -> None:
    """The table a person sees is read from values that equal the rows."""
    report = await _run(graphjobs_storage, list(shipped_sboms())[:2])
    stored: set[Job] = set()
    for tenant in TENANTS:
        stored |= set(await graphjobs_storage.graph_job_repository.list_build_jobs(tenant, limit=100))
        stored |= set(await graphjobs_storage.graph_job_repository.list_overlay_jobs(tenant, limit=100))
    assert set(report.finished) == stored


async def test_a_second_run_stands_beside_the_first(graphjobs_storage: Storage) -> None:
    """The same files again are other jobs, with the same graphs."""
    paths = list(shipped_sboms())[:3]
    first, second = await _run(graphjobs_storage, paths), await _run(graphjobs_storage, paths)

    def graphs(report: Report) -> dict[str, str | None]:
        return {job.sbom_digest: job.graph_snapshot_id for job in report.finished if isinstance(job, GraphBuildJob)}

    assert graphs(first) == graphs(second)
    assert not {job.id for job in first.finished} & {job.id for job in second.finished}
    listed = await graphjobs_storage.graph_job_repository.list_build_jobs(TENANTS[0], limit=100)
    assert {first.run, second.run} == {job.correlation_id for job in listed}


async def test_runs_at_once_each_end(graphjobs_storage: Storage) -> None:
    """Each takes what is queued, the other's jobs too; each run's report is of its own."""
    paths = list(shipped_sboms())
    reports = await asyncio.gather(*(_run(graphjobs_storage, paths, workers=2) for _ in range(4)))
    for report in reports:
        assert [Status.COMPLETED] * 2 * len(paths) == [job.status for job in report.finished]
        assert {report.run} == {job.correlation_id for job in report.finished}


async def test_a_bad_file_is_a_failed_job_and_the_rest_goes_on(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """No SBOM, cut off, huge, missing: each a failed job that says why, none stops the others."""
    whole = shipped_sboms()[0].read_bytes()
    bad = {
        "empty.json": b"",
        "cut.json": whole[: len(whole) // 2],
        "huge.json": b" " * (16 * 1024 * 1024 + 1),
        "text.json": b"hello",
        "other.json": b'{"spdxVersion": "SPDX-2.3"}',
        "deep.json": b"[" * 100_000,
        "[red]markup\n.json": b"{}",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in bad] + [tmp_path / "missing.json", tmp_path, shipped_sboms()[0]]
    report = await _run(graphjobs_storage, paths)
    failed = [job for job in report.finished if job.status is Status.FAILED]
    assert len(bad) + 2 == len(failed)
    assert all(job.error and len(job.error) < 500 for job in failed)
    reasons = " ".join(job.error or "" for job in failed)
    for word in ("cut off", "16,777,216 bytes", "SPDX", "no such file", "directory", "empty", "500 levels"):
        assert word in reasons
    assert {Status.COMPLETED: 2, Status.FAILED: len(failed)} == {
        status: sum(job.status is status for job in report.finished) for status in (Status.COMPLETED, Status.FAILED)
    }
    for job in failed:
        (*_, last) = await graphjobs_storage.graph_job_repository.list_events(job.tenant_id, job.id)
        assert job.error == last.payload["error"]


def _graphjobs(url: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("graphjobs"), *arguments],
        env={**os.environ, "GRAPHJOBS_DATABASE_URL": url, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_shows_a_table_of_jobs_and_a_history(graphjobs_database_url: str) -> None:
    """What README promises is what a person sees; 0 says that all went well."""
    shown = _graphjobs(graphjobs_database_url, "demo")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert 2 * len(shipped_sboms()) == len(re.findall(r"│ completed +│", shown.stdout.split("Events of")[0]))
    for words in ("Jobs of run", "Events of overlay job", "queued", "forbidden", "earlier runs beside these: 0"):
        assert words in shown.stdout
    again = _graphjobs(graphjobs_database_url, "demo", shipped_sboms()[0])
    assert f"earlier runs beside these: {2 * len(shipped_sboms())}." in again.stdout


def test_the_command_exits_1_where_a_job_failed(graphjobs_database_url: str, tmp_path: Path) -> None:
    """A script can tell; a person reads why, as it stands in the job."""
    bad = tmp_path / "[bold]bad.json"
    bad.write_text("no json")
    shown = _graphjobs(graphjobs_database_url, "demo", bad)
    assert shown.returncode == 1
    assert "[bold]bad.json" in shown.stdout.replace("\n", "")
    assert "Traceback" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x", "forbiden_licences": []}', None])
def test_a_bad_policy_is_one_sentence(graphjobs_database_url: str, tmp_path: Path, content: str | None) -> None:
    """Before any job is inserted."""
    policy = tmp_path / "policy.json"
    if content is not None:
        policy.write_text(content)
    shown = _graphjobs(graphjobs_database_url, "demo", "--policy", policy)
    assert (shown.returncode, shown.stdout) == (3, "")
    assert "policy.json" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_policy_of_ones_own_is_what_marks(graphjobs_database_url: str, tmp_path: Path) -> None:
    """Forbidding everything marks every component."""
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"name": "nothing at all", "forbidden_packages": ["pkg:*"]}))
    sbom = shipped_sboms()[0]
    shown = _graphjobs(graphjobs_database_url, "demo", "--policy", policy, sbom)
    assert f"{len(read_sbom(sbom).components)} forbidden" in shown.stdout
    assert "nothing at all" in shown.stdout
