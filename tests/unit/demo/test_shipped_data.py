"""The SBOMs and the policy of the package are real, readable, and contain no trace of the machine that created them."""

import json
import re
from pathlib import Path

import pytest

from graphjobs.demo.graph import build_graph
from graphjobs.demo.policy import evaluate, read_policy, shipped_policy
from graphjobs.demo.sbom import read_sbom, shipped_sboms

MACHINE_TRACE = re.compile(
    r"file:|/work|/tmp|/root|/opt|/home|/Users|[A-Z]:\\\\|/simple|find-links|localhost|127\.0\.0\.1", re.ASCII
)


def test_the_package_has_six_sorted_sboms() -> None:
    """One is of this project."""
    names = [path.name for path in shipped_sboms()]

    assert names == [
        "django-site.cdx.json",
        "fabric-deploy.cdx.json",
        "fastapi-service.cdx.json",
        "graphjobs.cdx.json",
        "pandas-analysis.cdx.json",
        "requests.cdx.json",
    ]


@pytest.mark.parametrize("path", shipped_sboms(), ids=lambda path: path.name)
def test_an_sbom_of_the_package_is_of_cyclonedx_bom_and_has_a_graph(path: Path) -> None:
    """The file names its tool; the graph has edges and more than one level."""
    tools = json.loads(path.read_text())["metadata"]["tools"]["components"]
    sbom = read_sbom(path)
    graph = build_graph(sbom)

    assert "cyclonedx-py" in {tool["name"] for tool in tools}
    assert len(sbom.components) >= 5
    assert graph.edges
    assert graph.depth >= 1


@pytest.mark.parametrize("path", [*shipped_sboms(), shipped_policy()], ids=lambda path: path.name)
def test_a_file_of_the_package_contains_no_path_and_no_package_index_of_a_machine(path: Path) -> None:
    """A published file stays published."""
    assert MACHINE_TRACE.search(path.read_text()) is None


def test_this_projects_own_sbom_has_the_project_as_its_root() -> None:
    """The SBOM was created with --pyproject."""
    (own,) = (read_sbom(path) for path in shipped_sboms() if path.name == "graphjobs.cdx.json")

    assert own.root is not None
    assert own.name.startswith("graphjobs@")
    assert own.root in {source for source, _ in own.dependencies}


def test_the_policy_of_the_package_has_findings_in_some_sboms() -> None:
    """A demonstration needs both results."""
    policy = read_policy(shipped_policy())
    findings = {}
    for path in shipped_sboms():
        sbom = read_sbom(path)
        findings[path.name] = {finding.name for finding in evaluate(policy, sbom, build_graph(sbom))}

    assert {
        "django-site.cdx.json": {"psycopg", "psycopg-binary"},
        "fabric-deploy.cdx.json": {"paramiko"},
        "fastapi-service.cdx.json": {"sentry-sdk"},
        "graphjobs.cdx.json": set(),
        "pandas-analysis.cdx.json": set(),
        "requests.cdx.json": set(),
    } == findings


def test_the_readme_lists_every_data_file() -> None:
    readme = (shipped_policy().parent / "README.md").read_text()

    assert all(path.name in readme for path in (*shipped_sboms(), shipped_policy()))
