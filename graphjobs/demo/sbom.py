"""Read a CycloneDX JSON SBOM into a frozen value, or raise an error of one sentence; builds no graph."""

import hashlib
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final

from graphjobs.demo.components import NAME_LENGTH_MAX, Component, read_component, read_components, read_name
from graphjobs.demo.documents import (
    WORD_LENGTH_MAX,
    DocumentError,
    clean_text,
    digest_head,
    read_document,
    read_list,
    read_object,
    read_text,
    show_path,
    type_name,
)

__all__ = ["Component", "Sbom", "SbomError", "fingerprint", "read_sbom", "shipped_sboms"]

SIZE_MAX_BYTES: Final = 16 * 1024 * 1024
DEPENDENCIES_MAX: Final = 1_000_000
VERSION_MAX: Final = 2**31 - 1
UNRESOLVED_SHOWN: Final = 20

_DATA: Final = Path(__file__).parent / "data"


class SbomError(Exception):
    """An invalid SBOM file: one sentence of printable text that names the file and the defect."""


@dataclass(frozen=True, slots=True)
class Sbom:
    """The parts of an SBOM that the demonstration needs.

    Attributes:
        name: the subject as name@version, or the file name; cleaned, at most 200 characters.
        digest: "sha256:" and 64 hexadecimal digits, of the bytes of the file.
        serial_number: the URN, or None.
        version: the revision of the SBOM, from 1.
        components: all components but the subject, nested ones included, sorted by ref.
        dependencies: edges (ref, ref of its dependency), sorted, unique; both ends are components or the root.
        root: the bom-ref of the subject, or None.
        unresolved: how many different references of dependencies name no component; they are in no edge.
        unresolved_refs: the first of them in their order, cleaned, at most 20.
    """

    name: str
    digest: str
    serial_number: str | None
    version: int
    components: tuple[Component, ...]
    dependencies: tuple[tuple[str, str], ...]
    root: str | None
    unresolved: int = 0
    unresolved_refs: tuple[str, ...] = ()


def shipped_sboms() -> tuple[Path, ...]:
    """Return the SBOM files of the package, sorted; data/README.md describes how they were created."""
    return tuple(sorted(_DATA.glob("*.cdx.json")))


def fingerprint(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> str:
    """Return a digest for any path, so that a job can identify an unreadable file; never raises.

    Returns:
        "sha256:" and 64 hexadecimal digits: of the first `size_max_bytes` of the file, or of the text of the path if
        the file is unreadable. Equal to `Sbom.digest` if `read_sbom` with the same limit succeeds.
    """
    try:
        return digest_head(path, size_max_bytes=size_max_bytes)
    except DocumentError:
        text = str(path).encode("utf-8", "surrogatepass")
        return f"sha256:{hashlib.sha256(text).hexdigest()}"


def read_sbom(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> Sbom:
    """Read a CycloneDX JSON SBOM of any version.

    Args:
        path: a regular file.
        size_max_bytes: larger files are refused before they are read. JSON in memory takes up to 25 times its size.

    Raises:
        SbomError: the file is unreadable, not a CycloneDX SBOM, or exceeds a limit.
    """
    try:
        document = read_document(path, size_max_bytes=size_max_bytes)
        return _sbom(document.fields, digest=document.digest, file_name=path.name)
    except DocumentError as error:
        raise SbomError(f"{show_path(path)}: {error}") from None


def _sbom(fields: dict[str, Any], *, digest: str, file_name: str) -> Sbom:
    _require_cyclonedx(fields)
    metadata = {} if fields.get("metadata") is None else read_object(fields["metadata"], "metadata")
    name = file_name
    root: Component | None = None
    lists: list[tuple[str, list[Any]]] = []
    if metadata.get("component") is not None:
        subject = read_object(metadata["component"], "metadata.component")
        name = _subject_name(subject)
        root = read_component(subject, "metadata.component")
        lists.append(("metadata.component.components", read_list(subject, "components", "metadata.component")))
    lists.append(("components", read_list(fields, "components")))
    lists.append(("services", read_list(fields, "services")))
    components = read_components(lists, root=root)
    refs = {component.ref: component.ref for component in components}
    root_ref = None if root is None else root.ref or None
    if root_ref is not None:
        refs[root_ref] = root_ref
    dependencies, unresolved = _dependencies(fields, refs)
    serial_number = read_text(fields, "serialNumber")
    return Sbom(
        name=clean_text(name, NAME_LENGTH_MAX) or "unnamed",
        digest=digest,
        serial_number=None if serial_number is None else clean_text(serial_number, NAME_LENGTH_MAX),
        version=_version(fields),
        components=components,
        dependencies=dependencies,
        root=root_ref,
        unresolved=len(unresolved),
        unresolved_refs=tuple(clean_text(ref, WORD_LENGTH_MAX) for ref in nsmallest(UNRESOLVED_SHOWN, unresolved)),
    )


def _require_cyclonedx(fields: dict[str, Any]) -> None:
    bom_format = read_text(fields, "bomFormat")
    if bom_format == "CycloneDX":
        return
    if bom_format is not None:
        raise DocumentError(f'bomFormat must be "CycloneDX", not "{clean_text(bom_format, WORD_LENGTH_MAX)}"')
    context = fields.get("@context")
    contexts = context if isinstance(context, list) else [context]
    wrapped = fields.get("sbom")  # as GitHub answers
    keys = {*fields, *(wrapped if isinstance(wrapped, dict) else ())}
    if not keys.isdisjoint(("spdxVersion", "SPDXID")) or any(
        "spdx.org" in text for text in contexts if isinstance(text, str)
    ):
        raise DocumentError("the file looks like an SPDX document; only CycloneDX is supported")
    raise DocumentError("the file is not a CycloneDX SBOM: it has no bomFormat")


def _version(fields: dict[str, Any]) -> int:
    version = 1 if fields.get("version") is None else fields["version"]
    if not isinstance(version, int) or isinstance(version, bool):
        raise DocumentError(f"version must be an integer, not {type_name(version)}")
    if not 1 <= version <= VERSION_MAX:
        raise DocumentError(f"version must be between 1 and {VERSION_MAX:,}")
    return version


def _subject_name(subject: dict[str, Any]) -> str:
    name = read_name(subject, "metadata.component")
    version = read_text(subject, "version", "metadata.component")
    return f"{name}@{version}" if version else name


def _dependencies(fields: dict[str, Any], refs: dict[str, str]) -> tuple[tuple[tuple[str, str], ...], set[str]]:
    """Return the edges between components, and the references that name none, of which package managers leave some."""
    edges: set[tuple[str, str]] = set()
    unresolved: set[str] = set()
    count = 0
    for index, item in enumerate(read_list(fields, "dependencies")):
        where = f"dependencies[{index}]"
        entry = read_object(item, where)
        source = _read_ref(entry.get("ref"), refs, f"{where}.ref")
        targets = read_list(entry, "dependsOn", where)
        count += len(targets)
        if count > DEPENDENCIES_MAX:
            raise DocumentError(f"the number of dependencies must be at most {DEPENDENCIES_MAX:,}")
        known = [_read_target(target, refs, f"{where}.dependsOn") for target in targets]
        unresolved.update(ref for ref in (source, *known) if ref not in refs)
        if source in refs:
            edges.update((source, target) for target in known if target in refs)
    return tuple(sorted(edges)), unresolved


def _read_target(value: object, refs: dict[str, str], where: str) -> str:
    return "null" if value is None else _read_ref(value, refs, where)


def _read_ref(value: object, refs: dict[str, str], where: str) -> str:
    """Return the ref of a component as the same object, so that a million edges share their strings."""
    if not isinstance(value, str):
        raise DocumentError(f"{where} must be text, not {type_name(value)}")
    return refs.get(value, value)
