"""The pages agree with the code: links, state diagrams, and tables of settings, errors, commands and modules."""

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

import graphjobs.errors
from graphjobs import (
    DispatcherOptions,
    GraphBuildJob,
    GraphOverlayJob,
    PolicyRunJob,
    PolicyRunService,
    PolicyRunStatus,
)
from graphjobs.cli import app
from graphjobs.cli.exit_codes import Exit
from graphjobs.database.migrations import commands
from graphjobs.graph_jobs.status import TRANSITIONS
from graphjobs.policy_runs.status import TRANSITIONS as RUN_TRANSITIONS
from graphjobs.settings import Settings
from graphjobs.worker import WorkerOptions

_ROOT = Path(__file__).resolve().parents[2]
_TOP_PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
_PAGES = [*(_ROOT / name for name in _TOP_PAGES), *sorted((_ROOT / "docs").rglob("*.md"))]


def _page(name: str) -> str:
    return (_ROOT / name).read_text(encoding="utf-8")


def _rows(page: str, row: str, *, after: str = "") -> list[Any]:
    """Return what a pattern finds in the rows of a page; with a text before, those of the first table after it."""
    text = _page(page)
    return re.findall(rf"^\| {row}", text.split(after)[1].split("\n\n")[0] if after else text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(_ROOT).as_posix())
def test_every_link_between_pages_leads_to_a_page_and_a_heading(page: Path) -> None:
    """No link leads to a missing page or heading."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(linked), f"{page.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("page", "transitions", "models"),
    [
        ("docs/lifecycle.md", TRANSITIONS, (GraphBuildJob, GraphOverlayJob)),
        ("docs/policy-runs.md", RUN_TRANSITIONS, (PolicyRunJob,)),
    ],
)
def test_the_state_diagram_is_the_transition_table(
    page: str, transitions: Mapping[str, frozenset[str]], models: tuple[type, ...]
) -> None:
    """The arrows are the legal transitions, and each label is a method of each model."""
    diagram = _page(page).split("```mermaid")[1].split("```")[0]
    arrows = set(re.findall(r"^ +(\w+) --> (\w+): (\w+)$", diagram, flags=re.MULTILINE))
    table = {(str(source), str(target)) for source, targets in transitions.items() for target in targets}
    assert table == {(source, target) for source, target, _ in arrows}
    finals = set(re.findall(r"^ +(\w+) --> \[\*\]$", diagram, flags=re.MULTILINE))
    assert {str(status) for status, targets in transitions.items() if not targets} == finals
    for _, _, method in arrows:
        for model in models:
            assert inspect.isfunction(getattr(model, method))


def test_the_public_statuses_of_policy_runs_are_documented() -> None:
    """The table has each status with its public status."""
    rows = _rows("docs/policy-runs.md", r"([\w, ]+) \| (\w+) \|$", after="| status |")
    documented = {status: public for statuses, public in rows for status in statuses.split(", ")}
    assert {str(status): status.public_status for status in PolicyRunStatus} == documented


@pytest.mark.parametrize(
    ("page", "heading", "row", "expected"),
    [
        ("docs/policy-runs.md", "| option |", r"`(\w+)` ", {option.name for option in fields(DispatcherOptions)}),
        ("docs/configuration.md", "", r"`GRAPHJOBS_(\w+)` ", {name.upper() for name in Settings.model_fields}),
        ("docs/configuration.md", "", r"(\d) \| ", [str(int(code)) for code in Exit]),
        ("docs/migrations.md", "", r"`(\d{3}_\w+)` ", [revision.revision for revision in commands.history()]),
    ],
    ids=["options of the dispatcher", "settings", "exit codes", "revisions"],
)
def test_a_table_has_a_row_for_each_name_in_the_code_and_no_other(
    page: str, heading: str, row: str, expected: Collection[str]
) -> None:
    """Exit codes and revisions stand in their order."""
    assert expected == type(expected)(_rows(page, row, after=heading))  # type: ignore[call-arg]


def test_every_use_case_of_policy_runs_is_documented_and_none_that_is_gone() -> None:
    """The table of docs/policy-runs.md is what the service has."""
    table = _page("docs/policy-runs.md").split("| `PolicyRunService` |")[1].split("\n\n")[0]
    documented = re.findall(r"`(\w+)\(", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert {name for name in vars(PolicyRunService) if not name.startswith("_")} == set(documented)


def test_the_documented_commands_are_those_of_the_cli() -> None:
    """The table is in docs/configuration.md."""
    documented = _rows("docs/configuration.md", r"`graphjobs ([\w ]+)` ")
    commands = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        commands |= {f"{name} {inner}" for inner in getattr(command, "commands", {})} or {name}
    assert commands == set(documented)


def test_the_documented_worker_options_are_those_of_the_class_and_the_command() -> None:
    """The table is in docs/worker.md."""
    lines = (line for line in _page("docs/worker.md").split("| option |")[1].splitlines() if line.startswith("|"))
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines]
    rows = [[flag, option] for flags, option in rows for flag in flags.split(", ")]
    documented = {option.strip("`") for _, option in rows}
    assert {option.name for option in fields(WorkerOptions)} <= documented
    flags = {flag for flag, _ in rows if flag.startswith("`--")}
    command = typer.main.get_command(app).commands["worker"]  # type: ignore[attr-defined]
    options = [option for param in command.params for option in (*param.opts, *param.secondary_opts)]
    expected = {f"`{option}`" for option in options if option.startswith("--")}
    assert expected - {"`--help`"} == flags


def test_every_error_is_documented() -> None:
    """The table of errors and the tree in the module's docstring have each class."""
    classes = {
        name
        for name, value in vars(graphjobs.errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "graphjobs.errors"
    }
    documented = set(
        re.findall(r"^\| `(\w+)`", _page("docs/configuration.md").split("## Errors")[1], flags=re.MULTILINE)
    )
    assert classes - {"GraphJobsError"} == documented
    assert all(name in (graphjobs.errors.__doc__ or "") for name in classes)


def test_every_decision_is_listed_with_its_date() -> None:
    """The index of docs/decisions/ has each file with its date and title."""
    folder = _ROOT / "docs" / "decisions"
    files = {page.name: page.read_text(encoding="utf-8") for page in folder.glob("*.md") if page.name != "README.md"}
    listed = _rows("docs/decisions/README.md", r"([\d-]+) \| \[(.+)\]\((.+)\) \|$")
    assert files.keys() == {name for _, _, name in listed}
    for date, title, name in listed:
        assert name.startswith(f"{date}-")
        assert files[name].startswith(f"# {title}\n\nDate: {date}\n")
        assert ["Context", "Choice", "Alternatives", "Consequences"] == re.findall(
            r"^## (\w+)$", files[name], re.MULTILINE
        )


def test_every_module_is_documented() -> None:
    """The tree in docs/architecture.md has the package and the name of each module."""
    tree = _page("docs/architecture.md").split("```")[1]
    modules = [path for path in (_ROOT / "graphjobs").rglob("*.py") if path.name != "__init__.py"]
    for module in modules:
        package = module.parent.name
        is_listed = re.search(rf"\b{module.stem}\b", tree) and (package == "graphjobs" or f"{package}/" in tree)
        assert is_listed, f"docs/architecture.md does not list {module.relative_to(_ROOT)}"


def test_readme_names_every_make_target_of_the_two_commands() -> None:
    """The two commands are `make demo` and `make test`."""
    assert {"demo", "test"} <= set(re.findall(r"^\$ make (\w+)", _page("README.md"), flags=re.MULTILINE))
    assert {"demo", "test", "check", "bench", "revision"} <= set(
        re.findall(r"^([\w-]+):.*## ", _page("Makefile"), flags=re.MULTILINE)
    )
