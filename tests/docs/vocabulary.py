"""Checker of words: parse the retired words of docs/glossary.md, and find them in source files and pages."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

_SPLIT_CELLS: Final = re.compile(r"(?<!\\)\|")
_CAMEL_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CODE_SPAN: Final = re.compile(r"`([^`\n]+)`")
_PYTHON_FENCE: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DOTTED_NAME: Final = re.compile(r"[A-Za-z_][\w.]*")

# Words that open a noun phrase or a clause. English has no others of these classes that a docstring could begin with.
_DETERMINERS: Final = (
    "a an the each both every all any some no none one what which whose its his their our this that these those"
)
_PRONOUNS: Final = "i it he she they we you who whoever whatever what people"
_CLAUSES: Final = "whether how why where when while if as because since until unless though"
_PREPOSITIONS: Final = "of in on at by for from with without to into after before between among under over"
_ADVERBS: Final = "true false not only also then there here"
_REFUSED_VERBS: Final = "give let tell say gives lets tells says"
_NOT_A_VERB: Final = frozenset(" ".join((_DETERMINERS, _PRONOUNS, _CLAUSES, _PREPOSITIONS, _ADVERBS)).split())
_REFUSED_OPENINGS: Final = frozenset(f"{_PRONOUNS} {_CLAUSES} {_REFUSED_VERBS} whose which".split())
_ENDS_LIKE_A_PARTICIPLE: Final = frozenset({"Embed", "Shed"})


class Violation(NamedTuple):
    """One retired word in one place."""

    path: str
    line: int
    word: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}: write {self.replacement}"


class Allowed(NamedTuple):
    """One correct use of a retired word.

    Attributes:
        path: a pattern of paths.
        word: the retired word or name.
        text: what the line contains.
        reason: why the use is correct.
    """

    path: str
    word: str
    text: str
    reason: str


@dataclass(frozen=True)
class Vocabulary:
    """The retired words and names, each with its replacement.

    Attributes:
        words: words and phrases that no text contains.
        names: Python names that nothing defines.
        modules: dotted paths of modules that do not exist.
    """

    words: dict[str, str]
    names: dict[str, str]
    modules: dict[str, str]

    @classmethod
    def parse(cls, page: str) -> "Vocabulary":
        """Parse the tables of the glossary. The last column of each lists what is retired."""
        words: dict[str, str] = {}
        names: dict[str, str] = {}
        modules: dict[str, str] = {}
        for replacement, retired in _rows(page):
            words |= {word.casefold(): replacement for word in re.findall(r'"([^"]+)"', retired)}
            for name in _CODE_SPAN.findall(retired):
                (modules if name.startswith("graphjobs.") else names)[name] = replacement
        return cls(words, names, modules)

    def in_text(self, text: str, *, phrases_with_none: bool = True) -> Iterator[tuple[int, str, str]]:
        """Find retired words in text.

        Args:
            text: prose, a comment, a string, or a name.
            phrases_with_none: False for names, where the phrase refers to the Python value.

        Yields:
            The number of line breaks before the word, the word, and its replacement.
        """
        # The value None is not the pronoun "none"; names count as the words they are made of.
        plain = _CAMEL_HUMP.sub(" ", re.sub(r"\bNone\b", "-", text)).replace("_", " ")
        for match in self._words_pattern.finditer(plain):
            word = " ".join(re.split(r"[\s-]+", match.group().casefold()))
            if phrases_with_none or not word.endswith(" none"):
                yield plain.count("\n", 0, match.start()), word, self.words[word]
        for match in self._names_pattern.finditer(text):
            name = match.group().replace("/", ".")
            replacement = self.names.get(name) or self.modules[name]
            yield text.count("\n", 0, match.start()), name, replacement

    @cached_property
    def _words_pattern(self) -> re.Pattern[str]:
        alternatives = "|".join(r"[\s-]+".join(map(re.escape, word.split())) for word in self.words)
        return re.compile(rf"(?<![A-Za-z])(?:{alternatives})(?![A-Za-z])", flags=re.IGNORECASE)

    @cached_property
    def _names_pattern(self) -> re.Pattern[str]:
        # Without an underscore a retired name may be a correct word of a sentence: those are found as names only.
        modules = [module.replace(".", "[./]") for module in self.modules]
        alternatives = "|".join([*modules, *(name for name in self.names if "_" in name.strip("_"))])
        return re.compile(rf"(?<![\w.])(?:{alternatives})(?!\w)")

    def in_name(self, name: str) -> Iterator[tuple[str, str]]:
        """Find what is retired in a Python name, with its replacement."""
        bare = name.lstrip("_")
        for retired in {name, bare, f"_{bare}"} & self.names.keys():
            yield retired, self.names[retired]
        for _, word, replacement in self.in_text(name, phrases_with_none=False):
            if word not in self.names:
                yield word, replacement


def source_violations(vocabulary: Vocabulary, path: str, code: str) -> list[Violation]:
    """List violations of one Python file: in its path, its names, its strings and its comments."""
    tree = ast.parse(code)
    found = [Violation(path, 1, *retired) for retired in _in_path(vocabulary, path)]
    for line, name in _names(tree):
        found += [Violation(path, line, *retired) for retired in vocabulary.in_name(name)]
    for line, text in (*_strings(tree), *_comments(code), *_imported_modules(tree)):
        found += [Violation(path, line + breaks, *retired) for breaks, *retired in vocabulary.in_text(text)]
    return sorted(set(found))


def violations_in_tests(vocabulary: Vocabulary, path: str, code: str) -> list[Violation]:
    """List violations of one file of tests: in the names of tests and in docstrings."""
    tree = ast.parse(code)
    found: list[Violation] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found += [Violation(path, node.lineno, *retired) for retired in vocabulary.in_name(node.name)]
    for _, line, text in _docstrings(tree):
        found += [Violation(path, line + breaks, *retired) for breaks, *retired in vocabulary.in_text(text)]
    return sorted(set(found))


def page_violations(vocabulary: Vocabulary, path: str, page: str) -> list[Violation]:
    """List violations of one Markdown page: in its text, its code spans and its Python examples."""
    found = [Violation(path, 1 + breaks, *retired) for breaks, *retired in vocabulary.in_text(page)]
    for span in _CODE_SPAN.finditer(page):
        line = 1 + page.count("\n", 0, span.start())
        for name in _DOTTED_NAME.findall(span.group(1)):
            found += [
                Violation(path, line, *retired) for part in name.split(".") for retired in vocabulary.in_name(part)
            ]
    for fence in _PYTHON_FENCE.finditer(page):
        line = 1 + page.count("\n", 0, fence.start())
        found += [
            violation._replace(line=line + violation.line)
            for violation in source_violations(vocabulary, path, fence.group(1))
        ]
    return sorted(set(found))


def text_violations(vocabulary: Vocabulary, path: str, text: str) -> list[Violation]:
    """List violations of one other file, for instance the Makefile."""
    return sorted({Violation(path, 1 + breaks, *retired) for breaks, *retired in vocabulary.in_text(text)})


def opening_violations(path: str, code: str) -> list[Violation]:
    """List docstrings of one file with a refused first word.

    A function's docstring begins with an imperative verb. The others, and those of properties, may be noun phrases.
    """
    found = []
    for node, line, text in _docstrings(ast.parse(code)):
        check = is_imperative if _is_plain_function(node) else is_noun_phrase_or_imperative
        if not check(text):
            first = " ".join(text.split()[:2])
            found.append(Violation(path, line, first, 'a docstring that begins with an imperative verb, as "Return"'))
    return found


def is_imperative(docstring: str) -> bool:
    """Return whether a docstring begins with what may be an imperative verb.

    The rule is one of word forms, not a list of verbs: a capitalised word, not of a closed word class, and not
    in the third person ("Reads"), a gerund ("Running") or a participle ("Queued").
    """
    word = _first_word(docstring)
    if not re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)?", word) or word.lower() in _NOT_A_VERB | _REFUSED_OPENINGS:
        return False
    third_person = re.search(r"[^sui]s$", word)
    gerund = re.search(r"[aeiouy].*ing$", word, flags=re.IGNORECASE)
    participle = re.search(r"[^e]ed$", word) and word not in _ENDS_LIKE_A_PARTICIPLE
    return not (third_person or gerund or participle)


def is_noun_phrase_or_imperative(docstring: str) -> bool:
    """Return whether a docstring of a module, class or attribute begins with an accepted word."""
    return _first_word(docstring).lower() not in _REFUSED_OPENINGS


def without_allowed(
    violations: Iterable[Violation], allowed: Iterable[Allowed], line_of: Callable[[str, int], str]
) -> list[Violation]:
    """Return the violations that no entry of the allow-list covers."""
    entries = list(allowed)
    return [
        violation
        for violation in violations
        if not any(
            fnmatch(violation.path, entry.path)
            and entry.word == violation.word
            and entry.text in line_of(violation.path, violation.line)
            for entry in entries
        )
    ]


def _rows(page: str) -> Iterator[tuple[str, str]]:
    """Yield the first and last cell of each row of the page's tables with a last column "not"."""
    inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in _SPLIT_CELLS.split(line)[1:-1]]
        if not cells:
            inside = False
        elif cells[-1] == "not":
            inside = True
        elif inside and not set(cells[0]) <= {"-"}:
            yield cells[0], cells[-1]


def _in_path(vocabulary: Vocabulary, path: str) -> Iterator[tuple[str, str]]:
    dotted = Path(path).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
    for module, replacement in vocabulary.modules.items():
        if dotted == module or dotted.startswith(f"{module}."):
            yield module, replacement
    yield from vocabulary.in_name(Path(path).stem)


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield names that the file defines or passes as keywords. Names of other libraries are only used, so not met."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _comments(code: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


def _docstrings(tree: ast.AST) -> Iterator[tuple[_Documented, int, str]]:
    """Yield docstrings of modules, classes, functions and attributes, each with its node and line."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node, body[0].lineno, text
        if isinstance(node, ast.Module | ast.ClassDef):
            for before, after in pairwise(body):
                if isinstance(before, ast.Assign | ast.AnnAssign) and _is_string(after):
                    yield before, after.lineno, after.value.value


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_plain_function(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def _first_word(docstring: str) -> str:
    return docstring.split(maxsplit=1)[0].rstrip(".,:;") if docstring.strip() else ""
