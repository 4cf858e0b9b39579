"""The SBOMs and the policy that travel with the package are real, readable, and say nothing of who made them."""

import json
import re
from pathlib import Path

import pytest

from graphjobs.demo.graph import build_graph
from graphjobs.demo.policy import evaluate, read_policy, shipped_policy
from graphjobs.demo.sbom import read_sbom, shipped_sboms

OF_A_MACHINE = re.compile(
    r"file:|/work|/tmp|/root|/opt|/home|/Users|[A-Z]:\\\\|/simple|find-links|localhost|127\.0\.0\.1", re.ASCII
)


def test_six_sboms_are_shipped_in_order() -> None:
    """This project's own environment is among them."""
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
def test_a_shipped_sbom_was_made_by_cyclonedx_bom_and_has_a_graph(path: Path) -> None:
    """The tool signs its work; the graph has edges and more than one level."""
    tools = json.loads(path.read_text())["metadata"]["tools"]["components"]
    sbom = read_sbom(path)
    graph = build_graph(sbom)

    assert "cyclonedx-py" in {tool["name"] for tool in tools}
    assert len(sbom.components) >= 5
    assert graph.edges
    assert graph.depth >= 1


@pytest.mark.parametrize("path", [*shipped_sboms(), shipped_policy()], ids=lambda path: path.name)
def test_a_shipped_file_names_no_path_and_no_index_of_the_machine_that_made_it(path: Path) -> None:
    """What is published stays published."""
    assert OF_A_MACHINE.search(path.read_text()) is None


def test_this_projects_own_sbom_has_the_project_as_its_root() -> None:
    """It was made with --pyproject."""
    (own,) = (read_sbom(path) for path in shipped_sboms() if path.name == "graphjobs.cdx.json")

    assert own.root is not None
    assert own.name.startswith("graphjobs@")
    assert own.root in {source for source, _ in own.dependencies}


def test_the_shipped_policy_marks_some_and_not_all() -> None:
    """A demonstration that marks everything, or nothing, shows nothing."""
    policy = read_policy(shipped_policy())
    marked = {}
    for path in shipped_sboms():
        sbom = read_sbom(path)
        marked[path.name] = {finding.name for finding in evaluate(policy, sbom, build_graph(sbom))}

    assert {
        "django-site.cdx.json": {"psycopg", "psycopg-binary"},
        "fabric-deploy.cdx.json": {"paramiko"},
        "fastapi-service.cdx.json": {"sentry-sdk"},
        "graphjobs.cdx.json": set(),
        "pandas-analysis.cdx.json": set(),
        "requests.cdx.json": set(),
    } == marked


def test_the_readme_names_every_shipped_file() -> None:
    """Whoever adds one says how it was made."""
    readme = (shipped_policy().parent / "README.md").read_text()

    assert all(path.name in readme for path in (*shipped_sboms(), shipped_policy()))
