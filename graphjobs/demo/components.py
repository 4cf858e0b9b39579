"""Read the components of an SBOM, nested to any depth, into frozen values; knows no files and no dependencies."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from graphjobs.demo.documents import WORD_LENGTH_MAX, DocumentError, clean_text, read_list, read_object, read_text

COMPONENTS_MAX: Final = 100_000
NAME_LENGTH_MAX: Final = 200
REF_LENGTH_MAX: Final = 1_024
TEXT_LENGTH_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Component:
    """A component or a service of an SBOM.

    Attributes:
        ref: the bom-ref; by default the purl or name@version, with "#2" and so on if another component has that ref.
        name: the name, after the group and a slash if there is a group; cleaned, cut to 200 characters.
        version: cleaned, cut to 200 characters; empty by default.
        purl: the package URL, or None.
        licences: SPDX ids, names and expressions, cleaned, cut to 1,000 characters, in the order of the file.
    """

    ref: str
    name: str
    version: str
    purl: str | None
    licences: tuple[str, ...]


def read_components(lists: list[tuple[str, list[Any]]], *, root: str | None) -> tuple[Component, ...]:
    """Read components and their nested components.

    Args:
        lists: the lists to read, each with its name for errors.
        root: the bom-ref of the subject, or None.

    Returns:
        Components sorted by ref; refs are unique, and different from the root.

    Raises:
        DocumentError: a name is missing, a bom-ref occurs twice, a type is wrong, or there are more than 100,000.
    """
    components: list[Component] = []
    refs = set() if root is None else {root}
    for where, fields in _flattened(lists):
        if len(components) == COMPONENTS_MAX:
            raise DocumentError(f"the number of components must be at most {COMPONENTS_MAX:,}")
        component = _component(fields, where)
        if component.ref in refs:
            raise DocumentError(f'{where}: the bom-ref "{clean_text(component.ref, WORD_LENGTH_MAX)}" occurs twice')
        if component.ref:
            refs.add(component.ref)
        components.append(component)
    return tuple(sorted(_with_refs(components, refs), key=lambda component: component.ref))


def _flattened(lists: list[tuple[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    pending = deque(lists)
    while pending:
        parent, items = pending.popleft()
        for index, item in enumerate(items):
            # Cut: deeply nested components would put thousands of long paths into the queue.
            where = f"{parent}[{index}]"[-NAME_LENGTH_MAX:]
            fields = read_object(item, where)
            yield where, fields
            for key in ("components", "services"):
                if nested := read_list(fields, key, where):
                    pending.append((f"{where}.{key}", nested))


def _component(fields: dict[str, Any], where: str) -> Component:
    purl = read_text(fields, "purl", where)
    return Component(
        ref=read_ref(fields, where) or "",
        name=clean_text(read_name(fields, where), NAME_LENGTH_MAX),
        version=clean_text(read_text(fields, "version", where) or "", NAME_LENGTH_MAX),
        purl=None if purl is None else clean_text(purl, TEXT_LENGTH_MAX),
        licences=tuple(
            _licence(item, f"{where}.licenses[{index}]")
            for index, item in enumerate(read_list(fields, "licenses", where))
        ),
    )


def _with_refs(components: list[Component], refs: set[str]) -> Iterator[Component]:
    """Generate missing refs, after all bom-refs are known, so that a generated ref is never the bom-ref of another."""
    numbers: dict[str, int] = {}
    for component in components:
        if component.ref:
            yield component
            continue
        base = ref = component.purl or f"{component.name}@{component.version}"
        while ref in refs:
            # Continue the last number: from 1 each time, a file of equal names would take quadratic time.
            numbers[base] = numbers.get(base, 1) + 1
            ref = f"{base}#{numbers[base]}"
        refs.add(ref)
        yield replace(component, ref=ref)


def read_name(fields: dict[str, Any], where: str) -> str:
    """Return the name of a component, after its group and a slash if there is a group; not cleaned.

    Raises:
        DocumentError: the name is missing, or its type is wrong.
    """
    name = read_text(fields, "name", where)
    if name is None or not name.strip():
        raise DocumentError(f"{where} has no name")
    group = read_text(fields, "group", where)
    return f"{group}/{name}" if group else name


def read_ref(fields: dict[str, Any], where: str) -> str | None:
    """Return the bom-ref of a component, or None.

    Raises:
        DocumentError: the bom-ref is not text of 1 to 1,024 printable characters.
    """
    ref = read_text(fields, "bom-ref", where)
    if ref is not None and not (0 < len(ref) <= REF_LENGTH_MAX and ref.isprintable()):
        raise DocumentError(f"{where}.bom-ref must be 1 to {REF_LENGTH_MAX:,} printable characters")
    return ref


def _licence(item: object, where: str) -> str:
    choice = read_object(item, where)
    text = read_text(choice, "expression", where)
    if text is None and "license" in choice:
        licence = read_object(choice["license"], f"{where}.license")
        text = read_text(licence, "id", f"{where}.license") or read_text(licence, "name", f"{where}.license")
    if text is None or not text.strip():
        raise DocumentError(f"{where} has neither an expression nor a license with an id or a name")
    return clean_text(text, TEXT_LENGTH_MAX)
