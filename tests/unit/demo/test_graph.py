"""Graphs equal the result of naive algorithms, for any order and shape of their edges."""

import hashlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs.demo import graph as graph_module
from graphjobs.demo.graph import DependencyGraph, build_graph, count_ancestors
from graphjobs.demo.sbom import Component, Sbom

Edges = frozenset[tuple[str, str]]
Shape = tuple[tuple[str, ...], Edges]


def sbom_of(refs: tuple[str, ...], edges: tuple[tuple[str, str], ...] = (), root: str | None = None) -> Sbom:
    """Build an SBOM of components and edges."""
    components = tuple(Component(ref, ref, "1", None, ()) for ref in refs)
    return Sbom("subject", f"sha256:{'0' * 64}", None, 1, components, edges, root)


def graph_of(*edges: str) -> DependencyGraph:
    """Build a graph of edges such as "ab": a depends on b."""
    pairs = tuple((edge[0], edge[1]) for edge in edges)
    return build_graph(sbom_of(tuple({ref for pair in pairs for ref in pair}), pairs))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw up to seven nodes and any edges between them, with cycles and loops."""
    nodes = tuple("abcdefg"[: draw(st.integers(min_value=1, max_value=7))])
    edges = draw(st.frozensets(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=14))
    return nodes, edges


def reachable(nodes: tuple[str, ...], edges: Edges) -> set[tuple[str, str]]:
    """Return all pairs (node, reachable node), each node itself included, by joining until nothing is added."""
    pairs = set(edges) | {(node, node) for node in nodes}
    while True:
        joined = {(a, d) for (a, b), (c, d) in itertools.product(pairs, pairs) if b == c}
        if joined <= pairs:
            return pairs
        pairs |= joined


def naive_depth(nodes: tuple[str, ...], edges: Edges) -> int:
    """Return the length of the longest path between groups of nodes that reach each other, by trying all paths."""
    reach = reachable(nodes, edges)
    group_of = {a: frozenset(b for b in nodes if {(a, b), (b, a)} <= reach) for a in nodes}
    between = {(group_of[a], group_of[b]) for a, b in edges if group_of[a] != group_of[b]}

    def longest(group: frozenset[str]) -> int:
        return max((1 + longest(target) for source, target in between if source == group), default=0)

    return max(longest(group) for group in group_of.values())


def test_a_graph_has_all_components_the_root_and_the_edges_sorted() -> None:
    """Components without an edge are nodes."""
    graph = build_graph(sbom_of(("c", "a", "b"), (("root", "c"), ("c", "a")), root="root"))

    assert graph.nodes == ("a", "b", "c", "root")
    assert graph.edges == (("c", "a"), ("root", "c"))
    assert graph.depth == 2


def test_the_graph_of_an_empty_sbom_is_empty() -> None:
    graph = build_graph(sbom_of(()))

    assert (graph.nodes, graph.edges, graph.depth) == ((), (), 0)
    assert count_ancestors(graph) == {}


def test_the_snapshot_id_is_the_digest_of_the_documented_form() -> None:
    canonical = 'graphjobs-dependency-graph@1\n["a\\"b"]\n["caf\\u00e9"]\n["a\\"b","caf\\u00e9"]\n'

    graph = build_graph(sbom_of(("café", 'a"b'), (('a"b', "café"),)))

    assert f"sha256:{hashlib.sha256(canonical.encode('ascii')).hexdigest()}" == graph.snapshot_id


@pytest.mark.parametrize(
    ("edges", "depth"),
    [
        (("ab",), 1),
        (("ab", "bc", "ac"), 2),
        (("aa",), 0),
        (("ab", "ba"), 0),
        (("ab", "bc", "cb", "cd"), 2),
        (("ab", "ba", "cd", "dc", "bc"), 1),
        (("ab", "cd", "de"), 2),
    ],
)
def test_depth_is_the_longest_path_with_each_cycle_as_one_node(edges: tuple[str, ...], depth: int) -> None:
    """Edges within a cycle do not count."""
    assert depth == graph_of(*edges).depth


@given(shape=shapes())
def test_depth_equals_the_naive_depth(shape: Shape) -> None:
    """Tarjan's algorithm agrees with the definition."""
    nodes, edges = shape

    assert naive_depth(nodes, edges) == build_graph(sbom_of(nodes, tuple(edges))).depth


@given(shape=shapes(), block_nodes=st.integers(min_value=1, max_value=8))
def test_ancestor_counts_equal_reachability_for_any_block_size(shape: Shape, block_nodes: int) -> None:
    """Blocks limit the memory and do not change the result."""
    nodes, edges = shape
    reach = reachable(nodes, edges)
    expected = {node: sum((other, node) in reach for other in nodes if other != node) for node in nodes}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_module, "_BLOCK_NODES", block_nodes)
        actual = count_ancestors(build_graph(sbom_of(nodes, tuple(edges))))

    assert expected == actual


@given(shape=shapes(), seed=st.integers())
def test_the_order_of_the_input_does_not_change_the_graph(shape: Shape, seed: int) -> None:
    """The same graph has the same id."""
    nodes, edges = shape
    shuffled_nodes, shuffled_edges = list(nodes), [*edges, *edges]
    random.Random(seed).shuffle(shuffled_nodes)  # noqa: S311 - not a secret
    random.Random(seed).shuffle(shuffled_edges)  # noqa: S311 - not a secret

    expected = build_graph(sbom_of(nodes, tuple(sorted(edges))))

    assert expected == build_graph(sbom_of(tuple(shuffled_nodes), tuple(shuffled_edges)))


@given(first=shapes(), second=shapes())
def test_different_graphs_have_different_ids(first: Shape, second: Shape) -> None:
    ids = {build_graph(sbom_of(nodes, tuple(edges))).snapshot_id for nodes, edges in (first, second)}

    assert (first == second) == (len(ids) == 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (sbom_of(("a", "b", "c")), sbom_of(("a", "b"))),
        (sbom_of(("a", "b"), (("a", "b"),)), sbom_of(("a", "b"), (("b", "a"),))),
        (sbom_of(('a","b',)), sbom_of(("a", "b"))),
        (sbom_of(("a]\n[b",)), sbom_of(("a", "b"))),
    ],
)
def test_refs_with_punctuation_do_not_collide(first: Sbom, second: Sbom) -> None:
    """A ref is escaped in the canonical form."""
    assert build_graph(first).snapshot_id != build_graph(second).snapshot_id


def test_a_path_longer_than_pythons_stack_is_built() -> None:
    """The algorithm does not recurse."""
    length = 20_000
    refs = tuple(f"{number:05}" for number in range(length))
    graph = build_graph(sbom_of(refs, tuple(itertools.pairwise(refs))))

    assert length - 1 == graph.depth
    assert length - 1 == count_ancestors(graph)[refs[-1]]


def test_a_cycle_longer_than_pythons_stack_is_one_group() -> None:
    """Each node reaches all others, and the depth is 0."""
    length = 5_000
    refs = tuple(f"{number:05}" for number in range(length))
    graph = build_graph(sbom_of(refs, (*itertools.pairwise(refs), (refs[-1], refs[0]))))

    assert graph.depth == 0
    assert {length - 1} == set(count_ancestors(graph).values())
