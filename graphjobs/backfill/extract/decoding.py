"""Decodes one document from BSON or Extended JSON. This module reads no file and no server.

pymongo does the decoding. It comes with an extra and is imported on first use, so that graphjobs works without it.
"""

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal, TypeAlias

from graphjobs.core.json_values import DECODED_DEPTH_MAX, too_deep
from graphjobs.core.json_values import nests_deeper as json_nests_deeper
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.core.unique_json import DuplicateKey, unique_object
from graphjobs.errors import ConfigurationError

_EXCERPT_LENGTH_MAX: Final = 200

Encoding: TypeAlias = Literal["bson", "json"]
Decode: TypeAlias = Callable[[bytes], "dict[str, Any] | str"]
"""Returns the document of the bytes, or a description of the problem. It never raises."""


class InvalidExtendedJson(Exception):
    """A wrapper such as $oid with an invalid value."""


def require_pymongo() -> None:
    """Check that pymongo is installed.

    Raises:
        ConfigurationError: pymongo is not installed.
    """
    try:
        import bson.json_util  # noqa: F401  # only its presence is checked here
        import pymongo  # noqa: F401  # only its presence is checked here
    except ImportError:
        raise ConfigurationError(
            "a backfill reads documents with pymongo, which is not installed: pip install 'graphjobs[mongo]'"
        ) from None


@cache
def decoder(encoding: Encoding) -> Decode:
    """Return the decoder of one document of BSON or of Extended JSON, canonical or relaxed."""
    return _bson_decoder() if encoding == "bson" else _json_decoder()


def codec_options() -> Any:
    """Return lossless options of pymongo's BSON decoder. Times are naive and in UTC."""
    from bson.binary import UuidRepresentation
    from bson.codec_options import CodecOptions, DatetimeConversion

    return CodecOptions(
        tz_aware=False,  # aware times make decoding 1.5 times as slow
        uuid_representation=UuidRepresentation.UNSPECIFIED,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )


def _bson_decoder() -> Decode:
    import bson
    from bson.errors import BSONError

    options: Any = codec_options()
    decode_bson: Callable[..., dict[str, Any]] = bson.decode
    encode_bson: Callable[..., bytes] = bson.encode

    def decode(raw: bytes) -> dict[str, Any] | str:
        if _bson_nests_deeper(raw, DECODED_DEPTH_MAX):
            return too_deep(DECODED_DEPTH_MAX, "BSON")
        try:
            document = decode_bson(raw, options)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            return f"it is not valid BSON: {safe_excerpt(str(error)) or type(error).__name__}"
        try:
            # A document that encodes to the same bytes has each field once. This is ten times as fast as a search.
            if encode_bson(document, codec_options=options) == raw:
                return document
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError):
            pass
        name = _find_duplicate(raw)
        return document if name is None else _occurs_twice(name)

    return decode


def _occurs_twice(name: str) -> str:
    return f'the field "{safe_excerpt(name)}" occurs twice in one document, and it is unknown which one is right'


def _json_decoder() -> Decode:
    hook = _object_hook()

    def decode(raw: bytes) -> dict[str, Any] | str:
        try:
            text = raw.decode()
            if json_nests_deeper(raw, DECODED_DEPTH_MAX):
                return too_deep(DECODED_DEPTH_MAX)
            value = json.loads(text, object_pairs_hook=hook)
        except DuplicateKey as error:
            return _occurs_twice(error.key)
        except UnicodeDecodeError as error:
            return f"it is not UTF-8 text, from its byte {error.start:,} on"
        except json.JSONDecodeError as error:
            return f"it is not valid JSON: {error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1:,}"
        except InvalidExtendedJson as error:
            return f"it is not valid Extended JSON: {error}"
        except ValueError:
            return "it holds an integer of more digits than Python reads"
        return value if isinstance(value, dict) else f"it must be an object, not {type(value).__name__}"

    return decode


def parse_extended_json(text: str) -> Any:
    """Parse any Extended JSON value with the options of `decoder`.

    Raises:
        ValueError: the text is not JSON, has a key twice in one object, or nests too deep.
        InvalidExtendedJson: a wrapper holds an invalid value.
    """
    if json_nests_deeper(text, DECODED_DEPTH_MAX):
        raise ValueError(too_deep(DECODED_DEPTH_MAX))
    return json.loads(text, object_pairs_hook=_object_hook())


def _object_hook() -> Callable[[list[tuple[str, Any]]], Any]:
    from bson import json_util
    from bson.binary import UuidRepresentation
    from bson.codec_options import DatetimeConversion
    from bson.errors import BSONError

    options: Any = json_util.JSONOptions(
        tz_aware=False,
        uuid_representation=UuidRepresentation.UNSPECIFIED,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )
    convert = json_util.object_hook

    def hook(pairs: list[tuple[str, Any]]) -> Any:
        fields = unique_object(pairs)
        try:
            if "$date" in fields and len(fields) == 1 and isinstance(text := fields["$date"], str):
                return _parse_time(text)
            return convert(fields, options)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
            # pymongo's messages repeat the value.
            wrapper = next((key for key in fields if key.startswith("$")), "an object")
        raise InvalidExtendedJson(f"{safe_excerpt(wrapper)} holds an invalid value")

    return hook


def _parse_time(text: str) -> datetime:
    """Parse a time of relaxed Extended JSON. Without an offset it is in UTC, as for mongoimport."""
    # pymongo uses strptime, which is ten times slower.
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


# Bytes of a BSON value by its type, without the bytes that its own length counts, and the position of that length.
# For a type that nests: the bytes before its first field. Source: bsonspec.org, version 1.1.
_SIZES: Final = {
    **dict(enumerate((8, 4, 4, 4, 5, 0, 12, 1, 8, 0, 0, 16, 4, 4, 12, 4, 8, 8, 16), start=0x01)),
    0x7F: 0,
    0xFF: 0,
}
_LENGTHS_AT: Final = {0x02: 0, 0x05: 0, 0x0C: 0, 0x0D: 0, 0x0E: 0, 0x0F: 4}
_REGEX: Final = 0x0B
_LIST: Final = 0x04
_NESTING: Final = b"\x03\x04\x0f"
"""A document, a list, and code with a scope."""
_LEVEL_BYTES_MIN: Final = 6
"""The type, the end of the name, and the length."""
_length_at: Final = struct.Struct("<i").unpack_from


def nests_deeper(encoding: Encoding, raw: bytes, levels: int) -> bool:
    """Check without decoding whether a document nests deeper than `levels`.

    The document is one level. So is each document and list in it, and in Extended JSON each wrapper such as $oid.
    """
    return _bson_nests_deeper(raw, levels) if encoding == "bson" else json_nests_deeper(raw, levels)


def _bson_nests_deeper(raw: bytes, levels: int) -> bool:
    if len(raw) < _LEVEL_BYTES_MIN * levels or sum(map(raw.count, _NESTING)) < levels:  # nearly every document
        return False
    return any(depth > levels for depth, _, _ in _bson_fields(raw))


def _find_duplicate(raw: bytes) -> str | None:
    """Return the name of the first field that a document, or a document in it, has twice."""
    names: list[set[bytes] | None] = [set()]
    for depth, type_code, name in _bson_fields(raw):
        is_nested = type_code in _NESTING
        del names[depth - is_nested :]
        of_document = names[-1]
        if of_document is not None:
            if name in of_document:
                return name.decode(errors="replace")
            of_document.add(name)
        if is_nested:
            names.append(None if type_code == _LIST else set())
    return None


def _bson_fields(raw: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """Yield the depth after a field, its type and its name, for all fields; ends early at invalid BSON."""
    depth, at = 1, 4
    try:
        while depth:
            type_code, at = raw[at], at + 1
            if type_code == 0:
                depth -= 1
                continue
            name_at, at = at, raw.index(0, at) + 1
            name = raw[name_at : at - 1]
            if type_code in _LENGTHS_AT:
                (length,) = _length_at(raw, at + _LENGTHS_AT[type_code])
                if length < 0:
                    return
                at += length
            elif type_code == _REGEX:
                at = raw.index(0, raw.index(0, at) + 1) + 1
            at += _SIZES[type_code]
            depth += type_code in _NESTING
            yield depth, type_code, name
    except (LookupError, ValueError, struct.error):
        pass  # invalid BSON: the decoder reports it


def safe_excerpt(text: str) -> str:
    """Return text that may repeat a document's key, such as a decoder's message, cut and cleaned for one line."""
    return sanitize_error(text[:_EXCERPT_LENGTH_MAX]).replace("\n", " ") if text else ""
