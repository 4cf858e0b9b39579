"""UUIDs in the binary forms of BSON."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias
from uuid import UUID

from bson.binary import OLD_UUID_SUBTYPE, UUID_SUBTYPE, Binary, UuidRepresentation

LegacyUuids: TypeAlias = Literal["python", "java", "csharp"]
"""Byte order of UUIDs of BSON's old subtype 3. It depends on the driver that wrote them."""

UUID_BYTES: Final = 16

REPRESENTATIONS: Final[Mapping[object, int]] = MappingProxyType(
    {
        "uuid": UuidRepresentation.STANDARD,
        "uuidPython": UuidRepresentation.PYTHON_LEGACY,
        "uuidJava": UuidRepresentation.JAVA_LEGACY,
        "uuidCsharp": UuidRepresentation.CSHARP_LEGACY,
    }
)
"""The binary forms by the words that the metadata keeps for them."""


def uuid_of(value: object, legacy_uuids: LegacyUuids) -> tuple[UUID, str] | None:
    """Return a UUID in a binary form and the word of the form; None for any other value."""
    if isinstance(value, UUID):
        return value, "uuid"
    if not isinstance(value, Binary) or len(value) != UUID_BYTES:
        return None
    if value.subtype not in (UUID_SUBTYPE, OLD_UUID_SUBTYPE):
        return None
    kind = "uuid" if value.subtype == UUID_SUBTYPE else f"uuid{legacy_uuids.capitalize()}"
    return value.as_uuid(REPRESENTATIONS[kind]), kind
