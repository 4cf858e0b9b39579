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
        licences: SPDX ids, names, URLs and expressions, cleaned, cut to 1,000 characters, in the order of the file.
    """

    ref: str
    name: str
    version: str
    purl: str | None
    licences: tuple[str, ...]


def read_components(lists: list[tuple[str, list[Any]]], *, root: Component | None) -> tuple[Component, ...]:
    """Read components and their nested components.

    Args:
        lists: the lists to read, each with its name for errors.
        root: the subject, or None.

    Returns:
        Components sorted by ref; refs are unique, and different from the root. Equal ones with one bom-ref are one.

    Raises:
        DocumentError: a name is missing, different components have one bom-ref, a type is wrong, or there are more than
            100,000.
    """
    components: list[Component] = []
    by_ref = {root.ref: root} if root is not None and root.ref else {}
    for where, fields in _flattened(lists):
        if len(components) == COMPONENTS_MAX:
            raise DocumentError(f"the number of components must be at most {COMPONENTS_MAX:,}")
        component = read_component(fields, where)
        if component.ref:
            first = by_ref.setdefault(component.ref, component)
            if first == component and first is not component:
                continue
            if first is not component:
                ref = clean_text(component.ref, WORD_LENGTH_MAX)
                raise DocumentError(f'{where}: the bom-ref "{ref}" occurs twice, for different components')
        components.append(component)
    return tuple(sorted(_with_refs(components, set(by_ref)), key=lambda component: component.ref))


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


def read_component(fields: dict[str, Any], where: str) -> Component:
    """Return a component without its nested ones; its ref is empty if it has no bom-ref.

    Raises:
        DocumentError: the name is missing, or a type is wrong.
    """
    purl = read_text(fields, "purl", where)
    return Component(
        ref=read_ref(fields, where) or "",
        name=clean_text(read_name(fields, where), NAME_LENGTH_MAX),
        version=clean_text(read_text(fields, "version", where) or "", NAME_LENGTH_MAX),
        purl=None if purl is None else clean_text(purl, TEXT_LENGTH_MAX),
        licences=tuple(
            licence
            for index, item in enumerate(read_list(fields, "licenses", where))
            if (licence := _licence(item, f"{where}.licenses[{index}]"))
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
    """Return the text of a licence; empty if it has none, as some tools write for an unknown licence."""
    choice = read_object(item, where)
    text = read_text(choice, "expression", where)
    if text is None and choice.get("license") is not None:
        licence = read_object(choice["license"], f"{where}.license")
        texts = (read_text(licence, name, f"{where}.license") for name in ("id", "name", "url"))
        text = next((found for found in texts if found and found.strip()), None)
    return clean_text((text or "").strip(), TEXT_LENGTH_MAX)
