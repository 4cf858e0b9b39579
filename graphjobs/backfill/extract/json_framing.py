"""Finds where the documents of a JSON file begin and end: one a line, in an array, or one after the other.

What they mean is not known here, and memory is bounded as in the room of dumps: by one document, and a chunk.
"""

import re
from collections.abc import Generator
from typing import Final

from graphjobs.backfill.extract.bson_framing import (
    BLANK,
    BOM,
    CHUNK_SIZE,
    CHUNK_SIZE_MAX,
    EXCERPT_SIZE_MAX,
    ByteStream,
    RawRecord,
    RawRecords,
    bson_records,
    excerpt,
    truncated_record,
)

JSON_SIZE_MAX: Final = 64 * 1024 * 1024
"""The same documents are larger as Extended JSON: a number may take four times its bytes."""

_NEWLINE: Final = re.compile(rb"\n")
_JUNK: Final = re.compile(rb"[,\]{]")
_NEXT_OBJECT: Final = re.compile(rb"(?<=\n),?\{")
# Text and its end, which is missing where a chunk cuts it; what opens; what closes.
_TEXT: Final = rb'"(?:[^"\\\n]++|\\.)*+(")?'
_TOKENS: Final = {
    b"{": re.compile(_TEXT + rb"|(\{)|(\})", re.DOTALL),
    b"[": re.compile(_TEXT + rb"|(\[)|(\])", re.DOTALL),
}
_CLOSED, _OPENS, _CLOSES = 1, 2, 3
_REST: Final = re.compile(rb'(?:[^"\\\n]++|\\.)*+(")?', re.DOTALL)


def raw_records(file_format: str, stream: ByteStream, offset: int = 0) -> RawRecords:
    """Gives the entries of a file from the byte on where one ended.

    Args:
        file_format: one of the formats of `detect_format` that hold documents.
        stream: the bytes, from `offset` on.
        offset: the `end` of a frame, or 0.
    """
    if file_format == "bson":
        return bson_records(stream, offset)
    window = _ReadBuffer(stream, offset)
    return _line_records(window) if file_format == "lines" else _object_records(window, array=file_format == "array")


class _ReadBuffer:
    """What is held of a text file: from the entry looked at up to where has been read."""

    def __init__(self, flow: ByteStream, offset: int) -> None:
        self.stream = flow
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
        """What is held from `at` on."""
        return self.data[self.at :]

    def grow(self) -> bool:
        """Forgets what is before `at`, which is 0 then, and reads on; False at the end of the file."""
        held = self.rest
        # In proportion to what is held: else joining the chunks of a long entry takes the square of its length.
        chunk = self.stream.read(max(CHUNK_SIZE, min(len(held), CHUNK_SIZE_MAX)))
        self._base += self.at
        self.data, self.at = held + chunk if held else chunk, 0
        return bool(chunk)

    def skip_blanks(self) -> bytes:
        """Goes on to the next byte that is not blank, and gives it; nothing at the end of the file."""
        while True:
            while self.at < len(self.data) and self.data[self.at] in BLANK:
                self.at += 1
            if self.at < len(self.data):
                return self.data[self.at : self.at + 1]
            if not self.grow():
                return b""

    def read_until(self, mark: "re.Pattern[bytes]", searched: int) -> "Generator[None, None, tuple[bytes, bool]]":
        """Goes on to what matches from the index `searched` on, or to the end of the file.

        Returns:
            What was passed over, of more than `JSON_SIZE_MAX` the beginning; and whether it was more.
        """
        kept: bytes | None = None
        while not (match := mark.search(self.data, searched)):
            # The mark may begin with the last bytes held.
            searched = max(searched, len(self.data) - 2)
            if searched - self.at > JSON_SIZE_MAX:
                kept = self.rest[:EXCERPT_SIZE_MAX] if kept is None else kept
                self.at = searched
            searched -= self.at
            yield None
            if not self.grow():
                passed, self.at = self.rest, len(self.data)
                return (passed, False) if kept is None else (kept, True)
        passed, self.at = self.data[self.at : match.start()], match.start()
        return (passed, False) if kept is None else (kept, True)


def _line_records(buffer: _ReadBuffer) -> RawRecords:
    """Yield a record per line that is not blank."""
    stream = buffer.stream
    while True:
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


def _too_large(what: str) -> str:
    return f"{what} of more than {JSON_SIZE_MAX:,} bytes, which no document has; its beginning is kept"


def _object_records(buffer: _ReadBuffer, *, array: bool) -> RawRecords:
    """Goes from object to object, by their braces; commas between them are looked at no further."""
    flow = buffer.stream
    if array and buffer.at_file_start and buffer.skip_blanks():
        buffer.at += 1
    while byte := buffer.skip_blanks():
        start = buffer.offset
        if byte == b"]" and array:
            buffer.at += 1
            if buffer.skip_blanks():
                yield RawRecord(
                    buffer.offset, None, excerpt(buffer.rest, flow), "more follows the end of the array; it is not read"
                )
            elif flow.fault:
                yield truncated_record(flow, buffer.offset, b"", "")
            return
        if byte == b"," and array:
            buffer.at += 1
        elif byte in _TOKENS:
            frame = yield from _read_object(buffer, _BraceCounter(byte))
            yield frame
            if frame.end is None:
                return
        else:
            junk, too_long = yield from buffer.read_until(_JUNK, buffer.at + 1)
            yield RawRecord(start, buffer.offset, junk, _too_large("an entry") if too_long else None)
    if array or flow.fault:
        yield truncated_record(flow, buffer.offset, b"", "the array has no end: the file is cut off there")


def _read_object(buffer: _ReadBuffer, braces: "_BraceCounter") -> "Generator[None, None, RawRecord]":
    """Gives the object that begins there, or what should be one."""
    start = buffer.offset
    seen = buffer.at
    while True:
        end, seen = braces.find_end(buffer.data, seen)
        if end:
            raw, buffer.at = buffer.data[buffer.at : end], end
            return RawRecord(start, buffer.offset, raw)
        if braces.is_broken or len(buffer.data) - buffer.at > JSON_SIZE_MAX:
            break
        seen -= buffer.at
        yield None
        if not buffer.grow():
            break
    # An object without an end takes in those that follow it: as mongoexport writes them, each begins a line.
    ended = not braces.is_broken and len(buffer.data) <= JSON_SIZE_MAX
    if ended and not _NEXT_OBJECT.search(buffer.data, buffer.at + 1):
        rest, buffer.at = buffer.rest, len(buffer.data)
        return truncated_record(buffer.stream, start, rest, "the object there is cut off")
    raw, too_long = yield from buffer.read_until(_NEXT_OBJECT, buffer.at + 1)
    problem = _too_large("an object") if too_long else "the object there has no end before the next one begins"
    if buffer.at == len(buffer.data) and buffer.stream.fault:
        return truncated_record(buffer.stream, start, raw, problem)
    return RawRecord(start, buffer.offset, raw, problem)


class _BraceCounter:
    """Counts braces through an object, or brackets through a list, that is held piece by piece."""

    def __init__(self, opening: bytes) -> None:
        self._token = _TOKENS[opening]
        self.is_broken = False
        self._depth = 0
        self._in_text = False

    def find_end(self, buffer: bytes, at: int) -> tuple[int, int]:
        """Looks on from there.

        Returns:
            Where the object ends, 0 where that is not known yet; and how far has been looked.
        """
        if self._in_text:
            rest = _REST.match(buffer, at)
            if rest is None or rest.lastindex is None:
                return self._open_text(buffer, at if rest is None else rest.end())
            at, self._in_text = rest.end(), False
        depth = self._depth
        for token in self._token.finditer(buffer, at):
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
                self._depth, self._in_text = depth, True
                return self._open_text(buffer, token.end())
        self._depth = depth
        return 0, len(buffer)

    def _open_text(self, buffer: bytes, at: int) -> tuple[int, int]:
        # JSON has no line break within text: a quotation mark is missing.
        self.is_broken = buffer[at : at + 1] == b"\n"
        return 0, at
