"""Read a policy file, and find forbidden components in a built graph."""

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
    read_document,
    read_list,
    read_text,
    show_path,
    type_name,
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
    """An invalid policy file: one sentence of printable text that names the file and the defect."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The licences and packages that an organisation forbids.

    In a pattern "*" matches any text, "?" one character, "[ab]" one of these; case is ignored.

    Attributes:
        name: the name for people, at most 200 characters.
        digest: "sha256:" and 64 hexadecimal digits, of the bytes of the file.
        forbidden_licences: patterns of SPDX ids ("GPL-*") and of names in SBOMs ("*General Public*").
        forbidden_packages: patterns of package URLs. Without "@" they match every version ("pkg:pypi/requests"), with
            "@" these versions ("pkg:pypi/requests@1.*"). Qualifiers after "?" and "#" are ignored.
    """

    name: str
    digest: str
    forbidden_licences: tuple[str, ...]
    forbidden_packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A component that breaks a rule.

    Attributes:
        ref: the ref of the component.
        name: the name of the component.
        version: the version of the component.
        rule: "licence" or "package", a space, and the pattern of the policy.
        reason: one sentence for people.
        reached_by: the number of nodes that depend on the component, directly or through others.
    """

    ref: str
    name: str
    version: str
    rule: str
    reason: str
    reached_by: int


def shipped_policy() -> Path:
    """Return the policy file of the package; data/README.md describes it."""
    return _DATA / "policy.json"


def read_policy(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> Policy:
    """Read a policy: a JSON object with a name and optional lists of patterns.

    Raises:
        PolicyError: the file is unreadable, not a policy, or exceeds a limit. An unknown key is refused, because a
            misspelt rule would forbid nothing.
    """
    try:
        document = read_document(path, size_max_bytes=size_max_bytes)
        return _policy(document.fields, document.digest)
    except DocumentError as error:
        raise PolicyError(f"{show_path(path)}: {error}") from None


def evaluate(policy: Policy, sbom: Sbom, graph: DependencyGraph) -> tuple[Finding, ...]:
    """Return the forbidden components of an SBOM; its subject, the root, is not evaluated.

    If a component lists several licences, each must be allowed: CycloneDX does not define whether they are a choice.

    Args:
        policy: the rules.
        sbom: the components.
        graph: the graph that `build_graph` built of this SBOM.

    Returns:
        Findings sorted by ref and rule, at most one per component and rule.

    Raises:
        ValueError: a component is not a node of the graph.
    """
    licence_rule = cache(_matcher(policy.forbidden_licences))
    package_rule = _package_matcher(policy.forbidden_packages)
    breaches = [
        (component, rule, reason)
        for component in sbom.components
        for rule, reason in _breaches(component, licence_rule, package_rule).items()
    ]
    if not breaches:
        return ()
    reached_by = count_ancestors(graph)
    if missing := next((component.ref for component, _, _ in breaches if component.ref not in reached_by), None):
        raise ValueError(f"the graph is of another SBOM: it has no node {missing!r}")
    return tuple(
        sorted(
            Finding(component.ref, component.name, component.version, rule, reason, reached_by[component.ref])
            for component, rule, reason in breaches
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
    # In the last segment only: npm scopes have an "@" too, "pkg:npm/@angular/core".
    return "@" in pattern.rpartition("/")[2]


def _matcher(patterns: Iterable[str]) -> Callable[[str], str | None]:
    compiled = [(pattern, re.compile(fnmatch.translate(unquote(pattern).casefold()))) for pattern in patterns]

    def rule_of(text: str) -> str | None:
        lowered = text.casefold()
        return next((pattern for pattern, expression in compiled if expression.match(lowered)), None)

    return rule_of


def _policy(fields: dict[str, Any], digest: str) -> Policy:
    unknown = sorted(fields.keys() - set(_KEYS))
    if unknown:
        shown = clean_text(unknown[0], WORD_LENGTH_MAX)
        raise DocumentError(f'"{shown}" is not a key of a policy: use {", ".join(_KEYS)}')
    name = read_text(fields, "name")
    if name is None or not name.strip():
        raise DocumentError("the policy has no name")
    packages = _patterns(fields, "forbidden_packages")
    for index, pattern in enumerate(packages):
        if not pattern.startswith("pkg:"):
            raise DocumentError(f'forbidden_packages[{index}] must begin with "pkg:", like a package URL')
    return Policy(
        name=clean_text(name, PATTERN_LENGTH_MAX),
        digest=digest,
        forbidden_licences=_patterns(fields, "forbidden_licences"),
        forbidden_packages=packages,
    )


def _patterns(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    patterns = read_list(fields, key)
    if len(patterns) > PATTERNS_MAX:
        raise DocumentError(f"{key} must have at most {PATTERNS_MAX} patterns")
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str):
            raise DocumentError(f"{key}[{index}] must be text, not {type_name(pattern)}")
        if not (0 < len(pattern) <= PATTERN_LENGTH_MAX and pattern.isprintable()):
            raise DocumentError(f"{key}[{index}] must be 1 to {PATTERN_LENGTH_MAX} printable characters")
    return tuple(patterns)
