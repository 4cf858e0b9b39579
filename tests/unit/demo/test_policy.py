"""Policies are read strictly, and find exactly the forbidden components."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphjobs.demo.graph import build_graph
from graphjobs.demo.policy import Finding, Policy, PolicyError, evaluate, read_policy
from graphjobs.demo.sbom import Component, Sbom


def policy_of(*, licences: tuple[str, ...] = (), packages: tuple[str, ...] = ()) -> Policy:
    """Build a policy of patterns."""
    return Policy("rules", f"sha256:{'0' * 64}", licences, packages)


def sbom_of(*components: Component, edges: tuple[tuple[str, str], ...] = (), root: str | None = None) -> Sbom:
    """Build an SBOM of components and edges."""
    return Sbom("subject", f"sha256:{'0' * 64}", None, 1, components, edges, root)


def component(ref: str, *licences: str, purl: str | None = None) -> Component:
    """Build a component."""
    return Component(ref, f"name of {ref}", "1", purl, licences)


def findings_of(policy: Policy, sbom: Sbom) -> tuple[Finding, ...]:
    """Evaluate a policy on the graph of an SBOM."""
    return evaluate(policy, sbom, build_graph(sbom))


def policy_file(directory: Path, fields: object) -> Path:
    """Write a policy file."""
    path = directory / "policy.json"
    path.write_text(json.dumps(fields))
    return path


def test_all_fields_of_a_policy_are_read(tmp_path: Path) -> None:
    fields = {"name": "rules", "forbidden_licences": ["GPL-*"], "forbidden_packages": ["pkg:npm/@angular/*"]}

    policy = read_policy(policy_file(tmp_path, fields))

    assert Policy("rules", policy.digest, ("GPL-*",), ("pkg:npm/@angular/*",)) == policy
    assert len(policy.digest) == 71


def test_a_policy_may_forbid_nothing(tmp_path: Path) -> None:
    policy = read_policy(policy_file(tmp_path, {"name": "anything goes"}))

    assert findings_of(policy, sbom_of(component("a", "GPL-3.0-only", purl="pkg:pypi/a@1"))) == ()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([], "the file must contain a JSON object, not a list"),
        ({}, "the policy has no name"),
        ({"name": "\t"}, "the policy has no name"),
        ({"name": 1}, "name must be text, not a number"),
        (
            {"name": "x", "forbidden_licenses\x1b": []},
            '"forbidden_licenses\N{REPLACEMENT CHARACTER}" is not a key of a policy: '
            "use name, forbidden_licences, forbidden_packages",
        ),
        ({"name": "x", "forbidden_licences": "GPL-*"}, "forbidden_licences must be a list, not text"),
        ({"name": "x", "forbidden_licences": [None]}, "forbidden_licences[0] must be text, not null"),
        (
            {"name": "x", "forbidden_licences": ["a", ""]},
            "forbidden_licences[1] must be 1 to 200 printable characters",
        ),
        (
            {"name": "x", "forbidden_packages": ["pkg:" + "x" * 200]},
            "forbidden_packages[0] must be 1 to 200 printable characters",
        ),
        (
            {"name": "x", "forbidden_packages": ["requests"]},
            'forbidden_packages[0] must begin with "pkg:", like a package URL',
        ),
        (
            {"name": "x", "forbidden_packages": ["pkg:pypi/a"] * 257},
            "forbidden_packages must have at most 256 patterns",
        ),
    ],
)
def test_an_invalid_policy_is_refused_with_its_defect(fields: object, sentence: str, tmp_path: Path) -> None:
    """A misspelt key is invalid, because it would forbid nothing."""
    path = policy_file(tmp_path, fields)

    with pytest.raises(PolicyError) as caught:
        read_policy(path)

    assert f"{path}: {sentence}" == str(caught.value)


def test_an_invalid_file_is_refused(tmp_path: Path) -> None:
    """Missing, truncated and large files have the same errors as for an SBOM."""
    path = tmp_path / "policy.json"
    with pytest.raises(PolicyError, match="the file does not exist"):
        read_policy(path)
    path.write_text('{"name": "x')
    with pytest.raises(PolicyError, match="it is truncated"):
        read_policy(path)
    path.write_text('{"name": "x"}'.ljust(65_537))
    with pytest.raises(PolicyError, match="must have at most 65,536 bytes"):
        read_policy(path)


def test_a_finding_has_its_rule_reason_and_reach() -> None:
    sbom = sbom_of(
        component("app", "MIT"),
        component("driver", "LGPL-3.0-only"),
        component("library", "MIT"),
        edges=(("app", "library"), ("library", "driver"), ("root", "app")),
        root="root",
    )

    expected = Finding(
        ref="driver",
        name="name of driver",
        version="1",
        rule="licence LGPL-*",
        reason='its licence "LGPL-3.0-only" is forbidden by "LGPL-*"',
        reached_by=3,
    )
    assert (expected,) == findings_of(policy_of(licences=("GPL-*", "LGPL-*")), sbom)


@pytest.mark.parametrize(
    ("licences", "forbidden"),
    [
        (("GPL-2.0-only",), True),
        (("gpl-2.0-ONLY",), True),
        (("MIT OR GPL-2.0-only",), False),
        (("MIT AND GPL-2.0-only",), True),
        (("MIT", "GPL-2.0-only"), True),
        (("LGPL-2.1-only",), False),
        (("GNU General Public License v2 (GPLv2)",), True),
        ((), False),
    ],
)
def test_licences_are_compared_as_spdx_expressions(licences: tuple[str, ...], forbidden: bool) -> None:
    """Case is ignored, one choice of an OR is sufficient, and each of several licences must be allowed."""
    policy = policy_of(licences=("GPL-*", "*general public*"))

    assert forbidden == bool(findings_of(policy, sbom_of(component("a", *licences))))


@pytest.mark.parametrize(
    ("pattern", "purl", "forbidden"),
    [
        ("pkg:pypi/requests", "pkg:pypi/requests@2.34.2", True),
        ("pkg:pypi/requests", "pkg:pypi/requests", True),
        ("pkg:pypi/Requests", "pkg:pypi/requests@2.34.2?file_name=x#sub", True),
        ("pkg:pypi/requests", "pkg:pypi/requests-oauthlib@1", False),
        ("pkg:pypi/requests", "pkg:npm/requests@1", False),
        ("pkg:pypi/requests*", "pkg:pypi/requests-oauthlib@1", True),
        ("pkg:pypi/*2", "pkg:pypi/requests@2.34.2", False),
        ("pkg:pypi/requests@2.*", "pkg:pypi/requests@2.34.2?file_name=x", True),
        ("pkg:pypi/requests@1.*", "pkg:pypi/requests@2.34.2", False),
        ("pkg:pypi/requests@1.*", "pkg:pypi/requests", False),
        ("pkg:pypi/requests@2.34.2", "pkg:pypi/requests@2.34.2?file_name=x#sub", True),
        ("pkg:pypi/requests@2.34.2", "pkg:pypi/requests@2.34.2#sub", True),
        ("pkg:pypi/requests", "pkg:pypi/requests@1?download_url=https://example.org/y@z", True),
        ("pkg:npm/@angular/core", "pkg:npm/%40angular/core@17.0.0", True),
        ("pkg:npm/@angular/*", "pkg:npm/%40angular/core@17.0.0", True),
        ("pkg:npm/%40angular/core", "pkg:npm/%40angular/core@17.0.0", True),
        ("pkg:npm/@angular/core@16.*", "pkg:npm/%40angular/core@17.0.0", False),
        ("pkg:*", None, False),
    ],
)
def test_packages_are_compared_with_a_version_if_the_pattern_has_one(
    pattern: str, purl: str | None, forbidden: bool
) -> None:
    """A pattern without "@" matches every version; the "@" of an npm scope is not a version."""
    assert forbidden == bool(findings_of(policy_of(packages=(pattern,)), sbom_of(component("a", purl=purl))))


def test_findings_are_sorted_and_each_rule_occurs_once() -> None:
    policy = policy_of(licences=("GPL-*", "MPL-*"), packages=("pkg:pypi/*",))
    sbom = sbom_of(
        component("b", "MPL-2.0", "GPL-2.0", "GPL-3.0", purl="pkg:pypi/b@1"),
        component("a", "GPL-3.0"),
    )

    assert [(finding.ref, finding.rule) for finding in findings_of(policy, sbom)] == [
        ("a", "licence GPL-*"),
        ("b", "licence GPL-*"),
        ("b", "licence MPL-*"),
        ("b", "package pkg:pypi/*"),
    ]


def test_a_graph_of_another_sbom_is_refused() -> None:
    """The reach would be wrong."""
    other = build_graph(sbom_of(component("b")))

    with pytest.raises(ValueError, match="the graph is of another SBOM: it has no node 'a'"):
        evaluate(policy_of(licences=("*",)), sbom_of(component("a", "MIT")), other)


def test_a_pattern_with_many_stars_takes_no_time() -> None:
    """Matching does not backtrack exponentially."""
    policy = policy_of(licences=("*a" * 90 + "b",))

    assert findings_of(policy, sbom_of(component("a", "a" * 1_000))) == ()


def test_an_evaluation_without_findings_counts_no_ancestors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting is expensive, and most SBOMs have no findings."""

    def fail(graph: Any) -> None:
        pytest.fail("ancestors were counted")

    monkeypatch.setattr("graphjobs.demo.policy.count_ancestors", fail)

    assert findings_of(policy_of(licences=("GPL-*",)), sbom_of(component("a", "MIT"))) == ()
