"""Reads a policy file, and finds what it forbids in a built graph; what is done about it is not decided here."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from graphjobs.demo.documents import (
    WORD_LENGTH_MAX,
    DocumentError,
    clean_text,
    kind_of,
    read_document,
    read_list,
    read_text,
    show_path,
)
from graphjobs.demo.graph import DependencyGraph, count_ancestors
from graphjobs.demo.licences import find_breach
from graphjobs.demo.sbom import Component, Sbom

SIZE_MAX_BYTES: Final = 64 * 1024
PATTERNS_MAX: Final = 256
PATTERN_LENGTH_MAX: Final = 200

_KEYS: Final = ("name", "forbidden_licences", "forbidden_packages")
_DATA: Final = Path(__file__).parent / "data"


class PolicyError(Exception):
    """Why a file is no policy: one sentence of printable text, which names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an organisation does not want in its graphs.

    In a pattern "*" stands for any text, "?" for one character, "[ab]" for one of these; case makes no difference.

    Attributes:
        name: for people; at most 200 characters.
        digest: "sha256:" and 64 hexadecimal digits, of the file's bytes.
        forbidden_licences: patterns of SPDX ids ("GPL-*") and of names as SBOMs hold them ("*General Public*").
        forbidden_packages: patterns of package URLs; without "@" they mean every version ("pkg:pypi/requests"), with
            it these versions ("pkg:pypi/requests@1.*"). Qualifiers after "?" and "#" are not looked at.
    """

    name: str
    digest: str
    forbidden_licences: tuple[str, ...]
    forbidden_packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A component that breaks a rule.

    Attributes:
        ref: the component's.
        name: the component's.
        version: the component's.
        rule: "licence" or "package", a space, and the policy's pattern.
        reason: one sentence for people.
        reached_by: how many nodes of the graph depend on the component, directly or through others.
    """

    ref: str
    name: str
    version: str
    rule: str
    reason: str
    reached_by: int


def shipped_policy() -> Path:
    """Gives the policy that travels with the package; data/README.md says what it is for."""
    return _DATA / "policy.json"


def read_policy(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> Policy:
    """Reads a policy: a JSON object of a name, and lists of patterns that may be left out.

    Raises:
        PolicyError: the file cannot be read, or is no policy, or exceeds a limit. An unknown key is refused, for a
            misspelt rule would forbid nothing.
    """
    try:
        document = read_document(path, size_max_bytes=size_max_bytes)
        return _policy(document.fields, document.digest)
    except DocumentError as error:
        raise PolicyError(f"{show_path(path)}: {error}") from None


def evaluate(policy: Policy, sbom: Sbom, graph: DependencyGraph) -> tuple[Finding, ...]:
    """Finds what a policy forbids among the components of an SBOM; its subject, the root, is not judged.

    Where a component lists several licences each must be allowed, for CycloneDX does not say whether one may choose.

    Args:
        policy: the rules.
        sbom: the components.
        graph: what `build_graph` made of this SBOM.

    Returns:
        Findings sorted by ref and rule, at most one for each component and rule.

    Raises:
        ValueError: a component is no node of the graph.
    """
    licence_rule = cache(_matcher(policy.forbidden_licences))
    package_rule = _package_matcher(policy.forbidden_packages)
    found = [
        (component, rule, reason)
        for component in sbom.components
        for rule, reason in _breaches(component, licence_rule, package_rule).items()
    ]
    if not found:
        return ()
    reached_by = count_ancestors(graph)
    if missing := next((component.ref for component, _, _ in found if component.ref not in reached_by), None):
        raise ValueError(f"the graph was not built from this SBOM: it has no node {missing!r}")
    return tuple(
        sorted(
            Finding(component.ref, component.name, component.version, rule, reason, reached_by[component.ref])
            for component, rule, reason in found
        )
    )


def _breaches(
    component: Component, licence_rule: Callable[[str], str | None], package_rule: Callable[[str], str | None]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for licence in component.licences:
        pattern = find_breach(licence, licence_rule)
        if pattern is not None:
            shown = clean_text(licence, PATTERN_LENGTH_MAX)
            reasons.setdefault(f"licence {pattern}", f'its licence "{shown}" is forbidden by "{pattern}"')
    pattern = None if component.purl is None else package_rule(component.purl)
    if pattern is not None:
        reasons[f"package {pattern}"] = f'its package is forbidden by "{pattern}"'
    return reasons


def _package_matcher(patterns: Iterable[str]) -> Callable[[str], str | None]:
    of_versions = _matcher(pattern for pattern in patterns if _splits_version(pattern))
    of_packages = _matcher(pattern for pattern in patterns if not _splits_version(pattern))

    def rule_of(purl: str) -> str | None:
        versioned = purl.partition("#")[0].partition("?")[0]
        folder, slash, last = versioned.rpartition("/")
        rule = of_packages(unquote(f"{folder}{slash}{last.partition('@')[0]}"))
        return rule if rule is not None else of_versions(unquote(versioned))

    return rule_of


def _splits_version(pattern: str) -> bool:
    # In the last part only: npm's scopes are written with an "@" too, "pkg:npm/@angular/core".
    return "@" in pattern.rpartition("/")[2]


def _matcher(patterns: Iterable[str]) -> Callable[[str], str | None]:
    compiled = [(pattern, re.compile(fnmatch.translate(unquote(pattern).casefold()))) for pattern in patterns]

    def rule_of(text: str) -> str | None:
        folded = text.casefold()
        return next((pattern for pattern, expression in compiled if expression.match(folded)), None)

    return rule_of


def _policy(fields: dict[str, Any], digest: str) -> Policy:
    unknown = sorted(fields.keys() - set(_KEYS))
    if unknown:
        shown = clean_text(unknown[0], WORD_LENGTH_MAX)
        raise DocumentError(f'"{shown}" is no key of a policy; the keys are {", ".join(_KEYS)}')
    name = read_text(fields, "name")
    if name is None or not name.strip():
        raise DocumentError("the policy has no name")
    packages = _patterns(fields, "forbidden_packages")
    for index, pattern in enumerate(packages):
        if not pattern.startswith("pkg:"):
            raise DocumentError(f'forbidden_packages[{index}] should begin with "pkg:", as a package URL does')
    return Policy(
        name=clean_text(name, PATTERN_LENGTH_MAX),
        digest=digest,
        forbidden_licences=_patterns(fields, "forbidden_licences"),
        forbidden_packages=packages,
    )


def _patterns(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    patterns = read_list(fields, key)
    if len(patterns) > PATTERNS_MAX:
        raise DocumentError(f"{key} holds more than {PATTERNS_MAX} patterns, which is the limit")
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str):
            raise DocumentError(f"{key}[{index}] should be text, not {kind_of(pattern)}")
        if not (0 < len(pattern) <= PATTERN_LENGTH_MAX and pattern.isprintable()):
            raise DocumentError(f"{key}[{index}] should be 1 to {PATTERN_LENGTH_MAX} printable characters")
    return tuple(patterns)
