"""The words of docs/glossary.md hold in the whole project: no retired word, no docstring with a refused opening."""

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.docs.vocabulary import (
    Allowed,
    Violation,
    Vocabulary,
    is_imperative,
    is_noun_phrase_or_imperative,
    opening_violations,
    page_violations,
    source_violations,
    text_violations,
    violations_in_tests,
    without_allowed,
)

_ROOT: Final = Path(__file__).resolve().parents[2]
_GLOSSARY: Final = "docs/glossary.md"

_SOURCES: Final = ("graphjobs/*.py", "benchmarks/*.py", "alembic/*.py", "pytest_graphjobs.py", "examples/*.py")
_PAGES: Final = ("docs/*.md", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/*.md")
_SETTINGS: Final = ("Makefile", "pyproject.toml", "alembic.ini", ".ci/run", ".github/*.yml", ".pre-commit-config.yaml")
Check: TypeAlias = Callable[[Vocabulary, str, str], list[Violation]]

_ALLOWED: Final[tuple[Allowed, ...]] = ()
"""Correct uses of retired words, each with its reason."""

_FIXTURE: Final = Vocabulary.parse(
    """
| term | definition | in Python | not |
|---|---|---|---|
| stalled job | A job. | `StalledItem` | `Sighting`, "sighted" |
| release | A release. | `release` | "given back", `give_back` |
| valid | Valid. | | "is none", "cannot be" |
| followup | A job. | `followups` | `following`, advice |
| core | A module. | `core/` | `graphjobs.landing` |
"""
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The vocabulary of docs/glossary.md."""
    return Vocabulary.parse((_ROOT / _GLOSSARY).read_text(encoding="utf-8"))


def _files(*patterns: str) -> dict[str, str]:
    """Return the text of files by path; those that git ignores are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    paths = listed.stdout.splitlines() if listed.returncode == 0 else _globbed(patterns)
    return {path: (_ROOT / path).read_text(encoding="utf-8") for path in paths if (_ROOT / path).is_file()}


def _globbed(patterns: Iterable[str]) -> list[str]:
    """Return paths without git, as in an unpacked archive."""
    found: list[str] = []
    for pattern in patterns:
        folder, _, name = pattern.rpartition("/")
        paths = (_ROOT / folder).rglob(name) if folder else _ROOT.glob(name)
        found += sorted(path.relative_to(_ROOT).as_posix() for path in paths)
    return found


def _line(path: str, line: int) -> str:
    lines = (_ROOT / path).read_text(encoding="utf-8").splitlines()
    return lines[line - 1] if line <= len(lines) else ""


def _assert_none(violations: Iterable[Violation]) -> None:
    if found := without_allowed(violations, _ALLOWED, _line):
        pytest.fail("\n".join(map(str, found)), pytrace=False)


@pytest.mark.parametrize(
    ("check", "patterns", "files_min"),
    [
        pytest.param(source_violations, _SOURCES, 20, id="source files"),
        pytest.param(page_violations, _PAGES, 5, id="pages"),
        pytest.param(violations_in_tests, ["tests/*.py"], 20, id="names and docstrings of tests"),
        pytest.param(text_violations, _SETTINGS, 1, id="project files"),
    ],
)
def test_no_retired_word_in_the_project(
    vocabulary: Vocabulary, check: Check, patterns: Iterable[str], files_min: int
) -> None:
    """All text is checked, but the strings of tests and the page that retires the words."""
    files = _files(*patterns)
    assert len(files) > files_min
    files.pop(_GLOSSARY, None)
    _assert_none(violation for path, text in files.items() for violation in check(vocabulary, path, text))


def test_docstrings_of_the_package_begin_with_an_ordinary_word() -> None:
    """Those of functions with an imperative verb, the others with a noun phrase or such a verb."""
    files = _files("graphjobs/*.py", "pytest_graphjobs.py")
    _assert_none(violation for path, code in files.items() for violation in opening_violations(path, code))


def test_the_glossary_retires_words_names_and_modules(vocabulary: Vocabulary) -> None:
    """A page that no longer parses would let everything pass."""
    assert {"told", "whose", "is none", "cannot be", "strange", "given back"} <= vocabulary.words.keys()
    assert {"Sighting", "Ending", "RunEnding", "following", "each"} <= vocabulary.names.keys()
    assert {"graphjobs.landing", "graphjobs.jobs"} <= vocabulary.modules.keys()
    assert vocabulary.names["Sighting"] == "stalled job"


def test_no_term_of_the_glossary_is_retired(vocabulary: Vocabulary) -> None:
    """A replacement that is itself retired could not be written."""
    for replacement in {*vocabulary.words.values(), *vocabulary.names.values()}:
        assert [] == [word for _, word, _ in vocabulary.in_text(replacement.replace("`", " "))], replacement


@pytest.mark.parametrize(
    ("check", "text", "expected"),
    [
        (source_violations, "class Sighting: ...", "Sighting"),
        (source_violations, "def f(following): ...", "following"),
        (source_violations, "f(following=1)", "following"),
        (source_violations, "def give_back(): ...", "give_back"),
        (source_violations, "def _give_back(): ...", "give_back"),
        (source_violations, "jobs_sighted = 1", "sighted"),
        (source_violations, "self.sighted = 1", "sighted"),
        (source_violations, "import x as sighted", "sighted"),
        (source_violations, "class JobSighted: ...", "sighted"),
        (source_violations, '"""A row that is none."""', "is none"),
        (source_violations, "x = 1  # it cannot be", "cannot be"),
        (source_violations, "x = 1  # It\tCannot  Be.", "cannot be"),
        (source_violations, 'raise ValueError(f"{x} cannot be")', "cannot be"),
        (source_violations, 'x = "given_back"', "given back"),
        (source_violations, 'x = "givenBack"', "given back"),
        (source_violations, "from graphjobs.landing import x", "graphjobs.landing"),
        (source_violations, "import graphjobs.landing", "graphjobs.landing"),
        (source_violations, 'x = "see graphjobs/landing.py"', "graphjobs.landing"),
        (page_violations, "It is none of them.", "is none"),
        (page_violations, "See `Sighting`.", "Sighting"),
        (page_violations, "See `graphjobs.x.Sighting`.", "Sighting"),
        (page_violations, "```python\nf(following=1)\n```\n", "following"),
        (page_violations, "The log has `given_back`.", "given back"),
    ],
)
def test_a_retired_word_is_found(check: Check, text: str, expected: str) -> None:
    """In a definition, a keyword, a string, a comment, an import, prose, a code span, or an example on a page."""
    assert expected in {violation.word for violation in check(_FIXTURE, "x", text)}


@pytest.mark.parametrize(
    "code",
    [
        '"""The following jobs are queued, with advice."""',  # an ordinary word of a sentence
        "x = 1  # The default is None.",  # the value, not the pronoun
        "value_is_none = True",
        "x = 1  # unsighted",  # part of another word
        "from other import Sighting",  # a name of another library
        "x = other.Sighting",
    ],
)
def test_an_ordinary_word_in_code_is_accepted(code: str) -> None:
    """The check reports whole words only, and names only where they are defined."""
    assert source_violations(_FIXTURE, "graphjobs/x.py", code) == []


def test_a_violation_names_its_line_and_replacement() -> None:
    """Also inside a string of several lines."""
    (found,) = source_violations(_FIXTURE, "graphjobs/x.py", 'x = """\nfine\nit cannot be\n"""')
    assert str(found) == "graphjobs/x.py:3: 'cannot be': write valid"


@pytest.mark.parametrize("path", ["graphjobs/landing.py", "graphjobs/landing/__init__.py", "graphjobs/landing/x.py"])
def test_a_file_with_a_retired_name_is_found(path: str) -> None:
    """Modules and packages alike."""
    assert [Violation(path, 1, "graphjobs.landing", "core")] == source_violations(_FIXTURE, path, "")


def test_names_and_docstrings_of_tests_are_checked_but_not_their_strings() -> None:
    """Bad snippets may stand in tests, as in this file."""
    code = 'def test_a_sighted_job():\n    """It cannot be."""\n    x = "cannot be"\n'
    words = [(violation.line, violation.word) for violation in violations_in_tests(_FIXTURE, "tests/x.py", code)]
    assert words == [(1, "sighted"), (2, "cannot be")]


def test_an_entry_of_the_allow_list_covers_its_own_line_only() -> None:
    """Another word, another file or another line is still reported."""
    entry = Allowed("graphjobs/x.py", "cannot be", "PostgreSQL", "its message")
    lines = {1: "PostgreSQL says it cannot be", 2: "it cannot be"}
    found = [Violation("graphjobs/x.py", line, "cannot be", "valid") for line in lines]
    assert without_allowed(found, [entry], lambda _, line: lines[line]) == found[1:]


@pytest.mark.parametrize(
    "opening",
    ["Return the job.", "List jobs.", "Re-raise it.", "Bring it.", "Process it.", "Pass it.", "Need it.", "Embed it."],
)
def test_an_imperative_opening_is_accepted(opening: str) -> None:
    """Also verbs that look like another form."""
    assert is_imperative(opening)


@pytest.mark.parametrize(
    "opening",
    [
        "Returns the job.",
        "Gives the job.",
        "Give the job.",
        "Lets it pass.",
        "Tells it.",
        "What is read.",
        "Whether it is read.",
        "How it is read.",
        "It reads.",
        "As `read`.",
        "`read` reads.",
        "The job.",
        "Running to queued.",
        "Queued to running.",
        "Settles, if possible.",
        "Where it is.",
    ],
)
def test_another_opening_of_a_function_is_refused(opening: str) -> None:
    """Third person, participles, gerunds, clauses and noun phrases."""
    assert not is_imperative(opening)


def test_a_noun_phrase_is_accepted_for_modules_classes_attributes_and_properties() -> None:
    """They are things, not actions; a clause is still refused."""
    code = '"""The jobs."""\nclass A:\n    """A job."""\n    x = 1\n    """The most."""\n'
    code += '    @property\n    def y(self):\n        """The version."""\n'
    assert opening_violations("graphjobs/x.py", code) == []
    assert not is_noun_phrase_or_imperative("What is read.")
    bad = '"""What is read."""\nX = 1\n"""How long."""\ndef f():\n    """The job."""\n'
    assert [1, 3, 5] == [violation.line for violation in opening_violations("graphjobs/x.py", bad)]
