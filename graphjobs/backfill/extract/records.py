"""What reading finds, and how one document is decoded: BSON and Extended JSON; no file and no server is known here.

The decoding itself is pymongo's own. It comes with an extra and is imported when it is first needed, so that the rest
of graphjobs lives without.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from graphjobs.core.fields import sanitize_error
from graphjobs.core.json_values import DECODED_DEPTH_MAX, too_deep
from graphjobs.core.json_values import nests_deeper as json_nests_deeper
from graphjobs.errors import ConfigurationError

JOBS: Final = "graph_jobs"
RUNS: Final = "policy_runs"
EVENTS: Final = "graph_job_events"
RUN_EVENTS: Final = "policy_run_events"

COLLECTIONS: Final = (JOBS, RUNS, EVENTS, RUN_EVENTS)
"""The collections that are read, in their order: events need their jobs, and those of runs their runs."""

END: Final = 2**63 - 1
"""The offset of a position that nothing follows."""

_REASON_LENGTH_MAX: Final = 200

Form: TypeAlias = Literal["bson", "json"]
Decode: TypeAlias = Callable[[bytes], "dict[str, Any] | str"]
"""Gives the document that bytes hold, or else what is wrong with them; it never raises."""


class Position(NamedTuple):
    """Where reading goes on: after what was found last. A checkpoint holds it.

    Attributes:
        ordinal: how many entries of the part come before, those with a problem included.
        offset: the byte of the (decompressed) file the next one begins at; `END` where nothing follows.
        id: the `_id` read last from a live collection.
    """

    ordinal: int = 0
    offset: int = 0
    id: Any = None

    def to_json(self) -> str:
        """Gives it as text that a checkpoint can hold."""
        from bson import json_util

        return json_util.dumps(list(self), json_options=json_util.CANONICAL_JSON_OPTIONS)

    @classmethod
    def from_json(cls, text: str) -> "Position":
        """Reads what `to_json` gave.

        Raises:
            ValueError: it is no such text.
        """
        try:
            ordinal, offset, key = loads(text)
            return cls(int(ordinal), int(offset), key)
        except (ValueError, TypeError, ArithmeticError, LookupError, _WrongValue):
            raise ValueError("this is no position of a source") from None


class Place(NamedTuple):
    """Where something was found.

    Attributes:
        part: the part's name: a file's, or a collection's of a server.
        ordinal: the first entry of a part is 1.
        offset: the byte of the (decompressed) file it begins at; None on a server.
        next: where reading goes on after it.
    """

    part: str
    ordinal: int
    offset: int | None
    next: Position

    @property
    def told(self) -> str:
        """It, for a sentence."""
        if self.offset is None:
            return f"{self.part}, document {self.ordinal:,}"
        return f"{self.part}, at byte {self.offset:,}"


class Found(NamedTuple):
    """An entry of a part, as its bytes.

    Attributes:
        collection: the collection it belongs to.
        place: where it was found.
        form: how its bytes are written.
        raw: its bytes; at most what a document may have.
        fault: why they are no document as a whole, as where a file is cut off; None where they are to be decoded.
    """

    collection: str
    place: Place
    form: Form
    raw: bytes
    fault: str | None = None

    def decoded(self) -> dict[str, Any] | str:
        """Gives the document as pymongo decodes it, each time anew; or what is wrong where one should be, and where.

        Times are naive and in UTC, and binaries stay `Binary`.
        """
        outcome = decoder(self.form)(self.raw) if self.fault is None else self.fault
        if not isinstance(outcome, str):
            return outcome
        ends = self.fault is None and self.place.next.offset == END
        return f"{self.place.told}: {outcome}{'; the file ends there, and may be cut off' if ends else ''}"


@dataclass(frozen=True, slots=True)
class Part:
    """One collection of a source.

    Attributes:
        collection: its name, one of `COLLECTIONS`.
        name: the file's name, or database and collection.
        fingerprint: changes when the part becomes another one; a position holds only under the same.
        size_bytes: the file's size (compressed, if it is), or the collection's data; None where it cannot be told.
    """

    collection: str
    name: str
    fingerprint: str
    size_bytes: int | None


def require_mongo() -> None:
    """Sees to it that pymongo is there.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        import bson.json_util  # noqa: F401  # asked for here, used elsewhere
        import pymongo  # noqa: F401  # asked for here, used elsewhere
    except ImportError:
        raise ConfigurationError(
            "a backfill reads documents with pymongo, which is not installed: pip install 'graphjobs[mongo]'"
        ) from None


@cache
def decoder(form: Form) -> Decode:
    """Gives what decodes one document: of BSON, or of Extended JSON, canonical or relaxed."""
    return _bson_decoder() if form == "bson" else _json_decoder()


def _bson_decoder() -> Decode:
    import bson
    from bson.errors import BSONError

    options: Any = codec_options()
    decode_bson: Callable[..., dict[str, Any]] = bson.decode

    def decode(raw: bytes) -> dict[str, Any] | str:
        if _bson_nests_deeper(raw, DECODED_DEPTH_MAX):
            return too_deep(DECODED_DEPTH_MAX, "BSON")
        try:
            return decode_bson(raw, options)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            return f"it cannot be read as BSON: {shortened(str(error)) or type(error).__name__}"

    return decode


def codec_options() -> Any:
    """Gives how BSON becomes Python: nothing is lost on the way; times are naive, in UTC, as it has them."""
    from bson.binary import UuidRepresentation
    from bson.codec_options import CodecOptions, DatetimeConversion

    return CodecOptions(
        tz_aware=False,  # a zone on each would take half as long again
        uuid_representation=UuidRepresentation.UNSPECIFIED,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )


def _json_decoder() -> Decode:
    hook = _object_hook()

    def decode(raw: bytes) -> dict[str, Any] | str:
        try:
            text = raw.decode()
            if json_nests_deeper(raw, DECODED_DEPTH_MAX):
                return too_deep(DECODED_DEPTH_MAX)
            value = json.loads(text, object_hook=hook)
        except UnicodeDecodeError as error:
            return f"it is not UTF-8 text, from byte {error.start:,} of it on"
        except json.JSONDecodeError as error:
            return f"it cannot be read as JSON: {error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1:,}"
        except _WrongValue as error:
            return f"it cannot be read as Extended JSON: {error}"
        except ValueError:
            return "it holds an integer of more digits than Python reads"
        return value if isinstance(value, dict) else f"it should be an object, not {type(value).__name__}"

    return decode


def loads(text: str) -> Any:
    """Reads any Extended JSON, as documents are read.

    Raises:
        ValueError: it is no JSON, or nests too deep.
    """
    if json_nests_deeper(text, DECODED_DEPTH_MAX):
        raise ValueError(too_deep(DECODED_DEPTH_MAX))
    return json.loads(text, object_hook=_object_hook())


# How many bytes a value of BSON takes by its type, beside those that its own length tells; and where that stands.
# Of what nests it is those before its first field. Source: bsonspec.org, version 1.1.
_SIZES: Final = {
    **dict(enumerate((8, 4, 4, 4, 5, 0, 12, 1, 8, 0, 0, 16, 4, 4, 12, 4, 8, 8, 16), start=0x01)),
    0x7F: 0,
    0xFF: 0,
}
_LENGTHS_AT: Final = {0x02: 0, 0x05: 0, 0x0C: 0, 0x0D: 0, 0x0E: 0, 0x0F: 4}
_REGEX: Final = 0x0B
_NESTING: Final = b"\x03\x04\x0f"
"""A document, a list, and code with the document of its scope."""
_LEVEL_SIZE_MIN: Final = 6
"""Its type, the end of its name, and its length."""
_length_at: Final = struct.Struct("<i").unpack_from


def nests_deeper(form: Form, raw: bytes, levels: int) -> bool:
    """Tells by its bytes whether a document nests deeper than so many levels; it is not decoded.

    It is a level itself, and so is each document and each list in it; of Extended JSON so is each wrapper such as $oid.
    """
    return _bson_nests_deeper(raw, levels) if form == "bson" else json_nests_deeper(raw, levels)


def _bson_nests_deeper(raw: bytes, levels: int) -> bool:
    if len(raw) < _LEVEL_SIZE_MIN * levels or sum(map(raw.count, _NESTING)) < levels:  # as nearly always
        return False
    depth, at = 1, 4
    try:
        while depth:
            kind, at = raw[at], at + 1
            if kind == 0:
                depth -= 1
                continue
            at = raw.index(0, at) + 1
            if kind in _LENGTHS_AT:
                (length,) = _length_at(raw, at + _LENGTHS_AT[kind])
                if length < 0:
                    return False
                at += length
            elif kind == _REGEX:
                at = raw.index(0, raw.index(0, at) + 1) + 1
            at += _SIZES[kind]
            depth += kind in _NESTING
            if depth > levels:
                return True
    except (LookupError, ValueError, struct.error):
        pass  # it is no BSON from there on, as the decoder says better
    return False


class _WrongValue(Exception):
    """A wrapper such as $oid that holds what it cannot hold."""


def _object_hook() -> Callable[[dict[str, Any]], Any]:
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

    def hook(fields: dict[str, Any]) -> Any:
        try:
            if "$date" in fields and len(fields) == 1 and isinstance(text := fields["$date"], str):
                return _time_of(text)
            return convert(fields, options)
        except (BSONError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
            # pymongo's own sentences repeat the value.
            named = next((key for key in fields if key.startswith("$")), "an object")
        raise _WrongValue(f"{shortened(named)} holds what it cannot hold")

    return hook


def _time_of(text: str) -> datetime:
    """Reads a time of relaxed Extended JSON; without an offset it is in UTC, as mongoimport takes it."""
    # pymongo reads them by strptime, ten times slower.
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def shortened(text: str) -> str:
    """Makes a decoder's sentence, which may repeat a stranger's key, fit for a message."""
    return sanitize_error(text[:_REASON_LENGTH_MAX]).replace("\n", " ") if text else ""
