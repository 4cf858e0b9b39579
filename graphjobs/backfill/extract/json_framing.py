"""Splits a stream of JSON into documents, one per line, in an array or concatenated, without decoding them."""

import re
from collections.abc import Generator
from typing import Final

from graphjobs.backfill.extract.streams import (
    BSON_SIZE_MAX,
    CHUNK_SIZE,
    CHUNK_SIZE_MAX,
    EXCERPT_SIZE_MAX,
    ByteStream,
    RawRecord,
    RawRecords,
    excerpt,
    truncated_record,
)

JSON_SIZE_MAX: Final = 64 * 1024 * 1024
"""The size of the largest document as Extended JSON: a number may take four times as many bytes as in BSON."""

_CHECKED_SIZE_MIN: Final = 8 * 1024 * 1024
_OPENING_SIZE: Final = 4
"""The bytes that a brace or bracket stands for in BSON at least; a comma stands for one."""
_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

BOM: Final = b"\xef\xbb\xbf"
BLANK: Final = b" \t\r\n"

_NEWLINE: Final = re.compile(rb"\n")
_NOT_BLANK: Final = re.compile(rb"[^ \t\r\n]")
_NOT_BLANK_OR_COMMA: Final = re.compile(rb"[^ \t\r\n,]")
_JUNK: Final = re.compile(rb"[,\]{]")
_NEXT_OBJECT: Final = re.compile(rb"(?<=\n),?\{")
# A string with its closing quotation mark, which is missing if a chunk ends within the string; or a bracket.
_STRING: Final = rb'"(?:[^"\\\n]++|\\.)*+(")?'
_TOKENS: Final = {
    b"{": re.compile(_STRING + rb"|(\{)|(\})", re.DOTALL),
    b"[": re.compile(_STRING + rb"|(\[)|(\])", re.DOTALL),
}
_CLOSED, _OPENS, _CLOSES = 1, 2, 3
_REST: Final = re.compile(rb'(?:[^"\\\n]++|\\.)*+(")?', re.DOTALL)


class _ReadBuffer:
    """The part of a text file from the current record to the last byte read."""

    def __init__(self, stream: ByteStream, offset: int) -> None:
        self.stream = stream
        self.data = b""
        self.at = 0
        self._base = offset
        self.at_file_start = offset == 0
        if self.at_file_start:
            while len(self.data) < len(BOM) and self.grow():
                pass
            self.at = len(BOM) if self.data.startswith(BOM) else 0

    @property
    def offset(self) -> int:
        """The byte of the file at `at`."""
        return self._base + self.at

    @property
    def rest(self) -> bytes:
        """The data from `at`."""
        return self.data[self.at :]

    def grow(self) -> bool:
        """Drop the data before `at`, set `at` to 0, and read on. Return False at the end of the file."""
        rest = self.rest
        # Reads grow with the data: otherwise joining the chunks of a long record takes quadratic time.
        chunk = self.stream.read(max(CHUNK_SIZE, min(len(rest), CHUNK_SIZE_MAX)))
        self._base += self.at
        self.data, self.at = rest + chunk if rest else chunk, 0
        return bool(chunk)

    def skip_blanks(self, pattern: "re.Pattern[bytes]" = _NOT_BLANK) -> "Generator[None, None, bytes]":
        """Move to the next byte that is not blank and return it, or return nothing at the end of the file."""
        while not (match := pattern.search(self.data, self.at)):
            self.at = len(self.data)
            yield None
            if not self.grow():
                return b""
        self.at = match.start()
        return match.group()

    def read_until(self, pattern: "re.Pattern[bytes]", searched: int) -> "Generator[None, None, tuple[bytes, bool]]":
        """Move to the first match from index `searched` on, or to the end of the file.

        Returns:
            The skipped data and False; or the beginning of more than `JSON_SIZE_MAX` bytes, and True.
        """
        beginning: bytes | None = None
        while not (match := pattern.search(self.data, searched)):
            # A match may start in the last two bytes.
            searched = max(searched, len(self.data) - 2)
            if searched - self.at > JSON_SIZE_MAX:
                beginning = self.rest[:EXCERPT_SIZE_MAX] if beginning is None else beginning
                self.at = searched
            searched -= self.at
            yield None
            if not self.grow():
                break
        end = match.start() if match else len(self.data)
        skipped, self.at = self.data[self.at : end], end
        return (skipped, False) if beginning is None else (beginning, True)


def json_records(stream: ByteStream, offset: int, *, layout: str) -> RawRecords:
    """Yield the records of a file.

    Args:
        stream: the bytes from `offset` on.
        offset: 0, or the `end` of a record.
        layout: "lines", "array", or "objects" (concatenated, each over several lines).
    """
    buffer = _ReadBuffer(stream, offset)
    return _line_records(buffer) if layout == "lines" else _object_records(buffer, in_array=layout == "array")


def _line_records(buffer: _ReadBuffer) -> RawRecords:
    """Yield a record per line that is not blank."""
    stream = buffer.stream
    while True:
        data = buffer.data
        if data[buffer.at : buffer.at + 1] in BLANK:  # a gigabyte of blank lines compresses to a megabyte
            yield from buffer.skip_blanks()
            data = buffer.data
        end = data.find(b"\n", buffer.at)
        if end >= 0:
            start, line = buffer.offset, data[buffer.at : end]
            buffer.at = end + 1
            if not line.isspace() and line:
                yield RawRecord(start, buffer.offset, line)
            continue
        start = buffer.offset
        line, too_long = yield from buffer.read_until(_NEWLINE, len(data))
        at_end = buffer.at == len(buffer.data)
        buffer.at += not at_end
        if too_long:
            yield RawRecord(start, buffer.offset, line, _too_large("a line"))
        elif at_end and stream.fault:
            break
        elif line.strip(BLANK):
            yield RawRecord(start, None if at_end else buffer.offset, line)
        if at_end:
            start, line = buffer.offset, b""
            break
    if stream.fault:
        yield truncated_record(stream, start, line, "the line there is cut off")


def holds_too_many_values(raw: bytes) -> bool:
    """Return whether JSON text holds more values than a document of MongoDB. As Python objects they fill the memory."""
    if len(raw) < _CHECKED_SIZE_MIN or _bson_size_min(raw) <= BSON_SIZE_MAX:
        return False
    return _bson_size_min(_STRINGS.sub(b"", raw)) > BSON_SIZE_MAX


def _bson_size_min(raw: bytes) -> int:
    return (raw.count(b"{") + raw.count(b"[")) * _OPENING_SIZE + raw.count(b",")


def _too_large(what: str) -> str:
    return f"{what} of more than {JSON_SIZE_MAX:,} bytes is too large for a document; only its beginning is kept"


def _object_records(buffer: _ReadBuffer, *, in_array: bool) -> RawRecords:
    """Yield objects by their braces. Commas between objects are not checked."""
    stream = buffer.stream
    if in_array and buffer.at_file_start and (yield from buffer.skip_blanks()):
        buffer.at += 1
    while byte := (yield from buffer.skip_blanks(_NOT_BLANK_OR_COMMA if in_array else _NOT_BLANK)):
        start = buffer.offset
        if byte == b"]" and in_array:
            buffer.at += 1
            if (yield from buffer.skip_blanks()):
                problem = "more follows the end of the array; it is not read"
                yield RawRecord(buffer.offset, None, excerpt(buffer.rest, stream), problem)
            elif stream.fault:
                yield truncated_record(stream, buffer.offset, b"", "")
            return
        if byte in _TOKENS:
            record = yield from _read_object(buffer, _BraceCounter(byte))
            yield record
            if record.end is None:
                return
        else:
            junk, too_long = yield from buffer.read_until(_JUNK, buffer.at + 1)
            yield RawRecord(start, buffer.offset, junk, _too_large("an entry") if too_long else None)
    if in_array or stream.fault:
        yield truncated_record(stream, buffer.offset, b"", "the array has no end: the file is cut off there")


def _read_object(buffer: _ReadBuffer, braces: "_BraceCounter") -> "Generator[None, None, RawRecord]":
    """Return the object that begins at the current position, or a problem."""
    start = buffer.offset
    searched = buffer.at
    while True:
        end, searched = braces.find_end(buffer.data, searched)
        if end:
            raw, buffer.at = buffer.data[buffer.at : end], end
            return RawRecord(start, buffer.offset, raw)
        if braces.is_broken or len(buffer.data) - buffer.at > JSON_SIZE_MAX:
            break
        searched -= buffer.at
        yield None
        if not buffer.grow():
            break
    # Without an end, an object includes all later ones. mongoexport begins each on a new line, so continue there.
    is_last = not braces.is_broken and len(buffer.data) <= JSON_SIZE_MAX
    if is_last and not _NEXT_OBJECT.search(buffer.data, buffer.at + 1):
        rest, buffer.at = buffer.rest, len(buffer.data)
        return truncated_record(buffer.stream, start, rest, "the object there is cut off")
    raw, too_long = yield from buffer.read_until(_NEXT_OBJECT, buffer.at + 1)
    problem = _too_large("an object") if too_long else "the object there has no end before the next one begins"
    if buffer.at == len(buffer.data) and buffer.stream.fault:
        return truncated_record(buffer.stream, start, raw, problem)
    return RawRecord(start, buffer.offset, raw, problem)


class _BraceCounter:
    """Finds the end of an object by its braces, or of a list by its brackets, across chunks.

    Attributes:
        is_broken: a string has no closing quotation mark.
    """

    def __init__(self, opening: bytes) -> None:
        self._token = _TOKENS[opening]
        self.is_broken = False
        self._depth = 0
        self._in_string = False

    def find_end(self, data: bytes, at: int) -> tuple[int, int]:
        """Continue the search at index `at`.

        Returns:
            The index of the end, 0 if the data does not hold it; and the index up to which the data is searched.
        """
        if self._in_string:
            rest = _REST.match(data, at)
            if rest is None or rest.lastindex is None:
                return self._open_string(data, at if rest is None else rest.end())
            at, self._in_string = rest.end(), False
        depth = self._depth
        for token in self._token.finditer(data, at):
            kind = token.lastindex
            if kind == _CLOSED:
                continue
            if kind == _OPENS:
                depth += 1
            elif kind == _CLOSES:
                depth -= 1
                if depth == 0:
                    return token.end(), token.end()
            else:
                self._depth, self._in_string = depth, True
                return self._open_string(data, token.end())
        self._depth = depth
        return 0, len(data)

    def _open_string(self, data: bytes, at: int) -> tuple[int, int]:
        # A JSON string holds no line break: its closing quotation mark is missing.
        self.is_broken = data[at : at + 1] == b"\n"
        return 0, at
