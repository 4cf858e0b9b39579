"""A policy is read strictly, and finds what it forbids and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphjobs.demo.graph import build_graph
from graphjobs.demo.policy import Finding, Policy, PolicyError, evaluate, read_policy
from graphjobs.demo.sbom import Component, Sbom


def policy_of(*, licences: tuple[str, ...] = (), packages: tuple[str, ...] = ()) -> Policy:
    """Makes a policy of these patterns."""
    return Policy("house rules", f"sha256:{'0' * 64}", licences, packages)


def sbom_of(*components: Component, edges: tuple[tuple[str, str], ...] = (), root: str | None = None) -> Sbom:
    """Makes an SBOM of these components and edges."""
    return Sbom("subject", f"sha256:{'0' * 64}", None, 1, components, edges, root)


def component(ref: str, *licences: str, purl: str | None = None) -> Component:
    """Makes a component."""
    return Component(ref, f"name of {ref}", "1", purl, licences)


def found(policy: Policy, sbom: Sbom) -> tuple[Finding, ...]:
    """Evaluates a policy on the graph of an SBOM."""
    return evaluate(policy, sbom, build_graph(sbom))


def written(folder: Path, fields: object) -> Path:
    """Writes a policy file."""
    path = folder / "policy.json"
    path.write_text(json.dumps(fields))
    return path


def test_a_policy_is_read_whole(tmp_path: Path) -> None:
    """Name, patterns, and the digest that tells one edition from the next."""
    fields = {"name": "house", "forbidden_licences": ["GPL-*"], "forbidden_packages": ["pkg:npm/@angular/*"]}

    policy = read_policy(written(tmp_path, fields))

    assert Policy("house", policy.digest, ("GPL-*",), ("pkg:npm/@angular/*",)) == policy
    assert len(policy.digest) == 71


def test_a_policy_may_forbid_nothing(tmp_path: Path) -> None:
    """Both lists may be left out."""
    policy = read_policy(written(tmp_path, {"name": "anything goes"}))

    assert found(policy, sbom_of(component("a", "GPL-3.0-only", purl="pkg:pypi/a@1"))) == ()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([], "the file should hold a JSON object, not a list"),
        ({}, "the policy has no name"),
        ({"name": "\t"}, "the policy has no name"),
        ({"name": 1}, "name should be text, not a number"),
        (
            {"name": "x", "forbidden_licenses\x1b": []},
            '"forbidden_licenses\N{REPLACEMENT CHARACTER}" is no key of a policy; '
            "the keys are name, forbidden_licences, forbidden_packages",
        ),
        ({"name": "x", "forbidden_licences": "GPL-*"}, "forbidden_licences should be a list, not text"),
        ({"name": "x", "forbidden_licences": [None]}, "forbidden_licences[0] should be text, not null"),
        (
            {"name": "x", "forbidden_licences": ["a", ""]},
            "forbidden_licences[1] should be 1 to 200 printable characters",
        ),
        (
            {"name": "x", "forbidden_packages": ["pkg:" + "x" * 200]},
            "forbidden_packages[0] should be 1 to 200 printable characters",
        ),
        (
            {"name": "x", "forbidden_packages": ["requests"]},
            'forbidden_packages[0] should begin with "pkg:", as a package URL does',
        ),
        (
            {"name": "x", "forbidden_packages": ["pkg:pypi/a"] * 257},
            "forbidden_packages holds more than 256 patterns, which is the limit",
        ),
    ],
)
def test_what_is_wrong_with_a_policy_is_refused_and_named(fields: object, sentence: str, tmp_path: Path) -> None:
    """A misspelt key above all, for it would forbid nothing and look as if all were well."""
    path = written(tmp_path, fields)

    with pytest.raises(PolicyError) as caught:
        read_policy(path)

    assert f"{path}: {sentence}" == str(caught.value)


def test_a_file_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    """Missing, cut off, or too large: the same sentences as for an SBOM."""
    path = tmp_path / "policy.json"
    with pytest.raises(PolicyError, match="there is no such file"):
        read_policy(path)
    path.write_text('{"name": "x')
    with pytest.raises(PolicyError, match="it is cut off"):
        read_policy(path)
    path.write_text('{"name": "x"}'.ljust(65_537))
    with pytest.raises(PolicyError, match="larger than the limit of 65,536 bytes"):
        read_policy(path)


def test_a_forbidden_licence_is_found_with_its_reason_and_its_reach() -> None:
    """Whoever reads the finding knows what, why, and how much depends on it."""
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
    assert (expected,) == found(policy_of(licences=("GPL-*", "LGPL-*")), sbom)


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
def test_licences_are_compared_as_spdx_means_them(licences: tuple[str, ...], forbidden: bool) -> None:
    """Case makes no difference, a choice does, and of several licences each must be allowed."""
    policy = policy_of(licences=("GPL-*", "*general public*"))

    assert forbidden == bool(found(policy, sbom_of(component("a", *licences))))


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
def test_packages_are_compared_with_a_version_where_the_pattern_has_one(
    pattern: str, purl: str | None, forbidden: bool
) -> None:
    """A pattern without "@" means every version, and npm's scopes are not mistaken for one."""
    assert forbidden == bool(found(policy_of(packages=(pattern,)), sbom_of(component("a", purl=purl))))


def test_findings_are_sorted_and_each_rule_is_told_once() -> None:
    """A component may break several rules; saying its licence twice is one breach."""
    policy = policy_of(licences=("GPL-*", "MPL-*"), packages=("pkg:pypi/*",))
    sbom = sbom_of(
        component("b", "MPL-2.0", "GPL-2.0", "GPL-3.0", purl="pkg:pypi/b@1"),
        component("a", "GPL-3.0"),
    )

    assert [(finding.ref, finding.rule) for finding in found(policy, sbom)] == [
        ("a", "licence GPL-*"),
        ("b", "licence GPL-*"),
        ("b", "licence MPL-*"),
        ("b", "package pkg:pypi/*"),
    ]


def test_a_graph_of_another_sbom_is_refused() -> None:
    """A reach counted in the wrong graph would look like a fact."""
    other = build_graph(sbom_of(component("b")))

    with pytest.raises(ValueError, match="not built from this SBOM: it has no node 'a'"):
        evaluate(policy_of(licences=("*",)), sbom_of(component("a", "MIT")), other)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    """A policy file cannot stop a worker by backtracking."""
    policy = policy_of(licences=("*a" * 90 + "b",))

    assert found(policy, sbom_of(component("a", "a" * 1_000))) == ()


def test_an_evaluation_that_finds_nothing_asks_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting ancestors is the costly part, and most SBOMs are clean."""

    def fail(graph: Any) -> None:
        pytest.fail("ancestors were counted")

    monkeypatch.setattr("graphjobs.demo.policy.count_ancestors", fail)

    assert found(policy_of(licences=("GPL-*",)), sbom_of(component("a", "MIT"))) == ()
