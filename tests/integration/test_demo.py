"""The demonstration: real SBOMs, invalid files, several workers, and concurrent runs."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from graphjobs import GraphBuildJob, GraphJobStatus, GraphOverlayJob
from graphjobs.demo.policy import read_policy, shipped_policy
from graphjobs.demo.sbom import read_sbom, shipped_sboms
from graphjobs.demo.workers import TENANTS, Demo, Job, Report
from graphjobs.storage import Storage
from tests.migrations.cli_tools import Done, graphjobs

Status = GraphJobStatus


async def _run(storage: Storage, paths: list[Path], workers: int = 4) -> Report:
    return await Demo(storage, read_policy(shipped_policy()), workers=workers).run(paths)


async def test_each_sbom_of_the_package_is_built_and_overlaid_once(graphjobs_storage: Storage) -> None:
    report = await _run(graphjobs_storage, list(shipped_sboms()), workers=6)
    builds = [job for job in report.jobs if isinstance(job, GraphBuildJob)]
    overlays = [job for job in report.jobs if isinstance(job, GraphOverlayJob)]
    assert {read_sbom(path).digest for path in shipped_sboms()} == {job.sbom_digest for job in builds}
    assert {job.id for job in builds} == {job.build_job_id for job in overlays}
    assert len(report.jobs) == 2 * len(shipped_sboms()) == sum(report.jobs_per_worker)
    for job in report.jobs:
        assert (job.status, job.attempts) == (Status.COMPLETED, 1)
        events = await graphjobs_storage.graph_job_repository.list_events(job.tenant_id, job.id)
        assert [(e.payload.get("from"), e.payload["to"]) for e in events] == [
            (None, "queued"),
            ("queued", "running"),
            ("running", "completed"),
        ]
    assert any(int(job.metadata["findings"]) > 0 for job in overlays)
    assert any(int(job.metadata["findings"]) == 0 for job in overlays)


async def test_the_report_equals_the_stored_jobs(graphjobs_storage: Storage) -> None:
    report = await _run(graphjobs_storage, list(shipped_sboms())[:2])
    stored: set[Job] = set()
    for tenant in TENANTS:
        stored |= set(await graphjobs_storage.graph_job_repository.list_build_jobs(tenant, limit=100))
        stored |= set(await graphjobs_storage.graph_job_repository.list_overlay_jobs(tenant, limit=100))
    assert set(report.jobs) == stored


async def test_a_second_run_adds_other_jobs(graphjobs_storage: Storage) -> None:
    """The same files have other jobs with the same graphs."""
    paths = list(shipped_sboms())[:3]
    first, second = await _run(graphjobs_storage, paths), await _run(graphjobs_storage, paths)

    def graphs(report: Report) -> dict[str, str | None]:
        return {job.sbom_digest: job.graph_snapshot_id for job in report.jobs if isinstance(job, GraphBuildJob)}

    assert graphs(first) == graphs(second)
    assert not {job.id for job in first.jobs} & {job.id for job in second.jobs}
    listed = await graphjobs_storage.graph_job_repository.list_build_jobs(TENANTS[0], limit=100)
    assert {first.run, second.run} == {job.correlation_id for job in listed}


async def test_concurrent_runs_complete(graphjobs_storage: Storage) -> None:
    """Workers also claim jobs of other runs; each report is of its own run."""
    paths = list(shipped_sboms())
    reports = await asyncio.gather(*(_run(graphjobs_storage, paths, workers=2) for _ in range(4)))
    for report in reports:
        assert [Status.COMPLETED] * 2 * len(paths) == [job.status for job in report.jobs]
        assert {report.run} == {job.correlation_id for job in report.jobs}


async def test_an_invalid_file_is_a_failed_job_and_other_jobs_run(graphjobs_storage: Storage, tmp_path: Path) -> None:
    """Each failed job has an error: not an SBOM, truncated, too large, missing."""
    content = shipped_sboms()[0].read_bytes()
    invalid = {
        "empty.json": b"",
        "truncated.json": content[: len(content) // 2],
        "huge.json": b" " * (16 * 1024 * 1024 + 1),
        "text.json": b"hello",
        "other.json": b'{"spdxVersion": "SPDX-2.3"}',
        "deep.json": b"[" * 100_000,
        "[red]markup\n.json": b"{}",
    }
    for name, data in invalid.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in invalid] + [tmp_path / "missing.json", tmp_path, shipped_sboms()[0]]
    report = await _run(graphjobs_storage, paths)
    failed = [job for job in report.jobs if job.status is Status.FAILED]
    assert len(invalid) + 2 == len(failed)
    assert all(job.error and len(job.error) < 500 for job in failed)
    reasons = " ".join(job.error or "" for job in failed)
    for word in ("truncated", "16,777,216 bytes", "SPDX", "does not exist", "directory", "empty", "500 levels"):
        assert word in reasons
    assert {Status.COMPLETED: 2, Status.FAILED: len(failed)} == {
        status: sum(job.status is status for job in report.jobs) for status in (Status.COMPLETED, Status.FAILED)
    }
    for job in failed:
        (*_, last) = await graphjobs_storage.graph_job_repository.list_events(job.tenant_id, job.id)
        assert job.error == last.payload["error"]


def _demo(url: str, *arguments: str | Path) -> Done:
    return graphjobs("demo", *arguments, url=url, COLUMNS="160")


def test_the_command_prints_a_table_of_jobs_and_the_events_of_one(graphjobs_database_url: str) -> None:
    """The exit code is 0 if all jobs are completed."""
    done = _demo(graphjobs_database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert 2 * len(shipped_sboms()) == len(re.findall(r"│ completed +│", done.stdout.split("Events of")[0]))
    for words in ("Jobs of run", "Events of overlay job", "queued", "forbidden", "Jobs of earlier runs: 0"):
        assert words in done.stdout
    second = _demo(graphjobs_database_url, shipped_sboms()[0])
    assert f"Jobs of earlier runs: {2 * len(shipped_sboms())}." in second.stdout


def test_the_command_exits_1_if_a_job_failed(graphjobs_database_url: str, tmp_path: Path) -> None:
    invalid = tmp_path / "[bold]bad.json"
    invalid.write_text("no json")
    done = _demo(graphjobs_database_url, invalid)
    assert done.returncode == 1
    assert "[bold]bad.json" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x", "forbiden_licences": []}', None])
def test_an_invalid_policy_is_one_sentence(graphjobs_database_url: str, tmp_path: Path, content: str | None) -> None:
    policy = tmp_path / "policy.json"
    if content is not None:
        policy.write_text(content)
    done = _demo(graphjobs_database_url, "--policy", policy)
    assert (done.returncode, done.stdout) == (3, "")
    assert "policy.json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_policy_option_selects_the_policy(graphjobs_database_url: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"name": "nothing at all", "forbidden_packages": ["pkg:*"]}))
    sbom = shipped_sboms()[0]
    done = _demo(graphjobs_database_url, "--policy", policy, sbom)
    assert f"{len(read_sbom(sbom).components)} forbidden" in done.stdout
    assert "nothing at all" in done.stdout
