"""Build the dependency graph of an SBOM: pure values, deterministic, without recursion."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from graphjobs.demo.sbom import Sbom

_BLOCK_NODES: Final = 4_096
_FORMAT: Final = "graphjobs-dependency-graph@1"


@dataclass(frozen=True, slots=True)
class DependencyGraph:
    """The dependencies between components.

    Attributes:
        nodes: refs of all components and of the root, sorted; components without an edge are included.
        edges: (ref, ref of its dependency), sorted, unique.
        depth: the number of edges of the longest path, where each cycle counts as one node; 0 without dependencies
            between different nodes or cycles.
        snapshot_id: "sha256:" and 64 hexadecimal digits, of the canonical form: ASCII lines that end with a newline.
            The first line is the name of the format; then each node is a JSON list of one ref, and each edge a JSON
            list of two, in the order above (by code point) and without spaces. Equal graphs have equal ids,
            independent of the order, layout and metadata of the SBOM.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    depth: int
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class _Condensation:
    """The graph with each cycle merged into one group; an edge leads from a higher group to a lower one."""

    group_of: list[int]
    edges: list[tuple[int, int]]

    @property
    def count(self) -> int:
        return max(self.group_of, default=-1) + 1


def build_graph(sbom: Sbom) -> DependencyGraph:
    """Build the graph of an SBOM's dependencies, in linear time and memory except for sorting."""
    refs = {component.ref for component in sbom.components}
    if sbom.root is not None:
        refs.add(sbom.root)
    for edge in sbom.dependencies:
        refs.update(edge)
    nodes = tuple(sorted(refs))
    edges = tuple(sorted(set(sbom.dependencies)))
    return DependencyGraph(nodes, edges, depth=_depth(nodes, edges), snapshot_id=_snapshot_id(nodes, edges))


def count_ancestors(graph: DependencyGraph) -> dict[str, int]:
    """Return, for each node, the number of other nodes that depend on it, directly or through others.

    This takes a second for thousands of nodes, and up to 30 seconds for 100,000 nodes with a million edges.
    """
    condensed = _condense(graph.nodes, graph.edges)
    totals = [0] * condensed.count
    # A set of nodes is an integer with one bit per node, in blocks: all nodes at once could take gigabytes.
    for start in range(0, len(graph.nodes), _BLOCK_NODES):
        reached_from = [0] * condensed.count
        for bit, group in enumerate(condensed.group_of[start : start + _BLOCK_NODES]):
            reached_from[group] |= 1 << bit
        # From the highest group down: the ancestors of a group are complete before they reach its dependencies.
        for source, target in reversed(condensed.edges):
            reached_from[target] |= reached_from[source]
        for group, reaching in enumerate(reached_from):
            totals[group] += reaching.bit_count()
    return {ref: totals[group] - 1 for ref, group in zip(graph.nodes, condensed.group_of, strict=True)}


def _snapshot_id(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\n".encode())
    # Encode each ref once, not once per edge: encoding is most of the work in a large graph.
    quoted = {node: json.dumps(node) for node in nodes}
    for node in nodes:
        digest.update(f"[{quoted[node]}]\n".encode())
    for source, target in edges:
        digest.update(f"[{quoted[source]},{quoted[target]}]\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _depth(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> int:
    condensed = _condense(nodes, edges)
    longest = [0] * condensed.count
    # From the lowest group up: the paths below a group are complete before its own edge is added.
    for source, target in condensed.edges:
        longest[source] = max(longest[source], longest[target] + 1)
    return max(longest, default=0)


def _condense(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> _Condensation:
    number_of = {ref: number for number, ref in enumerate(nodes)}
    successors: list[list[int]] = [[] for _ in nodes]
    for source, target in edges:
        successors[number_of[source]].append(number_of[target])
    group_of = _groups(successors)
    between = {
        (group_of[source], group_of[target])
        for source, targets in enumerate(successors)
        for target in targets
        if group_of[source] != group_of[target]
    }
    return _Condensation(group_of, sorted(between))


def _groups(successors: list[list[int]]) -> list[int]:
    """Number the strongly connected components, dependencies first.

    Source: R. E. Tarjan, "Depth-first search and linear graph algorithms" (1972). The path is a list instead of a
    recursion, because a path of dependencies may be longer than Python's stack.
    """
    unseen = -1
    group_of = [unseen] * len(successors)
    order = [unseen] * len(successors)
    low = [unseen] * len(successors)
    visited = groups = 0
    open_nodes: list[int] = []
    for start in range(len(successors)):
        if order[start] != unseen:
            continue
        order[start] = low[start] = visited
        visited += 1
        open_nodes.append(start)
        path = [(start, iter(successors[start]))]
        while path:
            node, rest = path[-1]
            for target in rest:
                if order[target] == unseen:
                    order[target] = low[target] = visited
                    visited += 1
                    open_nodes.append(target)
                    path.append((target, iter(successors[target])))
                    break
                if group_of[target] == unseen:
                    low[node] = min(low[node], order[target])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == order[node]:
                    member = unseen
                    while member != node:
                        member = open_nodes.pop()
                        group_of[member] = groups
                    groups += 1
    return group_of
