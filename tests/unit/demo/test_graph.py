"""The graph is what a naive reading of the edges gives, whatever their order and whatever their shape."""

import hashlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs.demo import graph as graph_room
from graphjobs.demo.graph import DependencyGraph, build_graph, count_ancestors
from graphjobs.demo.sbom import Component, Sbom

Edges = frozenset[tuple[str, str]]
Shape = tuple[tuple[str, ...], Edges]


def sbom_of(refs: tuple[str, ...], edges: tuple[tuple[str, str], ...] = (), root: str | None = None) -> Sbom:
    """Makes an SBOM of these components and edges."""
    components = tuple(Component(ref, ref, "1", None, ()) for ref in refs)
    return Sbom("subject", f"sha256:{'0' * 64}", None, 1, components, edges, root)


def graph_of(*edges: str) -> DependencyGraph:
    """Builds a graph of edges such as "ab", a depends on b."""
    pairs = tuple((edge[0], edge[1]) for edge in edges)
    return build_graph(sbom_of(tuple({ref for pair in pairs for ref in pair}), pairs))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draws up to seven nodes, and any edges between them, circles and loops too."""
    nodes = tuple("abcdefg"[: draw(st.integers(min_value=1, max_value=7))])
    edges = draw(st.frozensets(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=14))
    return nodes, edges


def reachable(nodes: tuple[str, ...], edges: Edges) -> set[tuple[str, str]]:
    """Gives all (node, node it reaches), each node itself included, by joining until nothing is added."""
    found = set(edges) | {(node, node) for node in nodes}
    while True:
        joined = {(a, d) for (a, b), (c, d) in itertools.product(found, found) if b == c}
        if joined <= found:
            return found
        found |= joined


def naive_depth(nodes: tuple[str, ...], edges: Edges) -> int:
    """Gives the longest chain among the groups of nodes that reach one another, by trying all of them."""
    reach = reachable(nodes, edges)
    group_of = {a: frozenset(b for b in nodes if {(a, b), (b, a)} <= reach) for a in nodes}
    between = {(group_of[a], group_of[b]) for a, b in edges if group_of[a] != group_of[b]}

    def longest(group: frozenset[str]) -> int:
        return max((1 + longest(target) for source, target in between if source == group), default=0)

    return max(longest(group) for group in group_of.values())


def test_a_graph_has_all_components_the_root_and_the_edges_sorted() -> None:
    """A component without an edge is a node too."""
    graph = build_graph(sbom_of(("c", "a", "b"), (("root", "c"), ("c", "a")), root="root"))

    assert graph.nodes == ("a", "b", "c", "root")
    assert graph.edges == (("c", "a"), ("root", "c"))
    assert graph.depth == 2


def test_the_graph_of_nothing_is_a_graph() -> None:
    """An SBOM may be empty."""
    graph = build_graph(sbom_of(()))

    assert (graph.nodes, graph.edges, graph.depth) == ((), (), 0)
    assert count_ancestors(graph) == {}


def test_the_snapshot_id_is_the_digest_of_the_documented_form() -> None:
    """Anyone can make it again from the docstring, in any language."""
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
def test_depth_is_the_longest_chain_with_circles_as_one(edges: tuple[str, ...], depth: int) -> None:
    """A circle is as deep as what it depends on, and one more."""
    assert depth == graph_of(*edges).depth


@given(shape=shapes())
def test_depth_is_what_trying_every_chain_gives(shape: Shape) -> None:
    """Tarjan's algorithm agrees with the plain definition."""
    nodes, edges = shape

    assert naive_depth(nodes, edges) == build_graph(sbom_of(nodes, tuple(edges))).depth


@given(shape=shapes(), block_nodes=st.integers(min_value=1, max_value=8))
def test_ancestors_are_what_reachability_gives_however_the_work_is_cut(shape: Shape, block_nodes: int) -> None:
    """Blocks bound the memory and must not show in the result."""
    nodes, edges = shape
    reach = reachable(nodes, edges)
    expected = {node: sum((other, node) in reach for other in nodes if other != node) for node in nodes}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_room, "_BLOCK_NODES", block_nodes)
        actual = count_ancestors(build_graph(sbom_of(nodes, tuple(edges))))

    assert expected == actual


@given(shape=shapes(), seed=st.integers())
def test_the_order_of_the_input_does_not_show(shape: Shape, seed: int) -> None:
    """The same graph has the same id, however a tool wrote it down."""
    nodes, edges = shape
    shuffled_nodes, shuffled_edges = list(nodes), [*edges, *edges]
    random.Random(seed).shuffle(shuffled_nodes)  # noqa: S311 - a test's order is no secret
    random.Random(seed).shuffle(shuffled_edges)  # noqa: S311 - a test's order is no secret

    expected = build_graph(sbom_of(nodes, tuple(sorted(edges))))

    assert expected == build_graph(sbom_of(tuple(shuffled_nodes), tuple(shuffled_edges)))


@given(first=shapes(), second=shapes())
def test_different_graphs_have_different_ids(first: Shape, second: Shape) -> None:
    """Nodes count as well as edges."""
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
def test_graphs_that_look_alike_when_joined_have_different_ids(first: Sbom, second: Sbom) -> None:
    """No ref can imitate the canonical form's own punctuation."""
    assert build_graph(first).snapshot_id != build_graph(second).snapshot_id


def test_a_chain_longer_than_pythons_stack_is_built() -> None:
    """Nothing here recurses."""
    length = 20_000
    refs = tuple(f"{number:05}" for number in range(length))
    graph = build_graph(sbom_of(refs, tuple(itertools.pairwise(refs))))

    assert length - 1 == graph.depth
    assert length - 1 == count_ancestors(graph)[refs[-1]]


def test_a_circle_longer_than_pythons_stack_is_one_group() -> None:
    """All reach all, and none lies deeper than another."""
    length = 5_000
    refs = tuple(f"{number:05}" for number in range(length))
    graph = build_graph(sbom_of(refs, (*itertools.pairwise(refs), (refs[-1], refs[0]))))

    assert graph.depth == 0
    assert {length - 1} == set(count_ancestors(graph).values())
