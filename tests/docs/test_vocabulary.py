"""The words of docs/glossary.md hold in the whole project: no retired word, no docstring with a refused opening."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

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


def test_no_retired_word_in_source_files(vocabulary: Vocabulary) -> None:
    """Identifiers, docstrings, comments and strings of the package, the benchmarks and the revisions."""
    files = _files("graphjobs/*.py", "benchmarks/*.py", "alembic/*.py", "pytest_graphjobs.py", "examples/*.py")
    assert len(files) > 20
    found = [violation for path, code in files.items() for violation in source_violations(vocabulary, path, code)]
    _assert_none(found)


def test_no_retired_word_in_pages(vocabulary: Vocabulary) -> None:
    """Text, code spans and examples of each page but the glossary."""
    files = _files("docs/*.md", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/*.md")
    assert len(files) > 5
    pages = {path: page for path, page in files.items() if path != _GLOSSARY}
    found = [violation for path, page in pages.items() for violation in page_violations(vocabulary, path, page)]
    _assert_none(found)


def test_no_retired_word_in_names_and_docstrings_of_tests(vocabulary: Vocabulary) -> None:
    """Names of tests are sentences that people read."""
    files = _files("tests/*.py")
    assert len(files) > 20
    found = [violation for path, code in files.items() for violation in violations_in_tests(vocabulary, path, code)]
    _assert_none(found)


def test_no_retired_word_in_project_files(vocabulary: Vocabulary) -> None:
    """Configuration and the Makefile are read by contributors, too."""
    files = _files("Makefile", "pyproject.toml", "alembic.ini", ".ci/run", ".github/*.yml", ".pre-commit-config.yaml")
    found = [violation for path, text in files.items() for violation in text_violations(vocabulary, path, text)]
    _assert_none(found)


def test_docstrings_of_the_package_begin_with_an_ordinary_word() -> None:
    """Those of functions with an imperative verb, the others with a noun phrase or such a verb."""
    files = _files("graphjobs/*.py", "pytest_graphjobs.py")
    found = [violation for path, code in files.items() for violation in opening_violations(path, code)]
    _assert_none(found)


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
    ("code", "expected"),
    [
        ("class Sighting: ...", "Sighting"),
        ("def f(following): ...", "following"),
        ("f(following=1)", "following"),
        ("def give_back(): ...", "give_back"),
        ("def _give_back(): ...", "give_back"),
        ("jobs_sighted = 1", "sighted"),
        ("self.sighted = 1", "sighted"),
        ("import x as sighted", "sighted"),
        ("class JobSighted: ...", "sighted"),
        ('"""A row that is none."""', "is none"),
        ("x = 1  # it cannot be", "cannot be"),
        ("x = 1  # It\tCannot  Be.", "cannot be"),
        ('raise ValueError(f"{x} cannot be")', "cannot be"),
        ('x = "given_back"', "given back"),
        ('x = "givenBack"', "given back"),
        ("from graphjobs.landing import x", "graphjobs.landing"),
        ("import graphjobs.landing", "graphjobs.landing"),
        ('x = "see graphjobs/landing.py"', "graphjobs.landing"),
    ],
)
def test_a_retired_word_in_code_is_found(code: str, expected: str) -> None:
    """Wherever it stands: a definition, a keyword, a string, a comment, an import."""
    assert expected in {violation.word for violation in source_violations(_FIXTURE, "graphjobs/x.py", code)}


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


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("It is none of them.", "is none"),
        ("See `Sighting`.", "Sighting"),
        ("See `graphjobs.x.Sighting`.", "Sighting"),
        ("```python\nf(following=1)\n```\n", "following"),
        ("The log has `given_back`.", "given back"),
    ],
)
def test_a_retired_word_on_a_page_is_found(page: str, expected: str) -> None:
    """In text, code spans and Python examples."""
    assert expected in {violation.word for violation in page_violations(_FIXTURE, "docs/x.md", page)}


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
