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
    RAW_SIZE_MAX,
    Bytes,
    Frame,
    Frames,
    bson_frames,
    ending,
    kept_of,
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


def frames(kind: str, flow: Bytes, offset: int = 0) -> Frames:
    """Gives the entries of a file from the byte on where one ended.

    Args:
        kind: what `format_of` told.
        flow: the bytes, from `offset` on.
        offset: the `end` of a frame, or 0.
    """
    if kind == "bson":
        return bson_frames(flow, offset)
    window = _Window(flow, offset)
    return _line_frames(window) if kind == "lines" else _object_frames(window, array=kind == "array")


class _Window:
    """What is held of a text file: from the entry looked at up to where has been read."""

    def __init__(self, flow: Bytes, offset: int) -> None:
        self.flow = flow
        self.buffer = b""
        self.at = 0
        self._base = offset
        self.fresh = offset == 0
        if self.fresh:
            while len(self.buffer) < len(BOM) and self.grow():
                pass
            self.at = len(BOM) if self.buffer.startswith(BOM) else 0

    @property
    def offset(self) -> int:
        """The byte of the file at `at`."""
        return self._base + self.at

    @property
    def rest(self) -> bytes:
        """What is held from `at` on."""
        return self.buffer[self.at :]

    def grow(self) -> bool:
        """Forgets what is before `at`, which is 0 then, and reads on; False at the end of the file."""
        held = self.rest
        # In proportion to what is held: else joining the chunks of a long entry takes the square of its length.
        chunk = self.flow.more(max(CHUNK_SIZE, min(len(held), CHUNK_SIZE_MAX)))
        self._base += self.at
        self.buffer, self.at = held + chunk if held else chunk, 0
        return bool(chunk)

    def next_byte(self) -> bytes:
        """Goes on to the next byte that is not blank, and gives it; nothing at the end of the file."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in BLANK:
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at : self.at + 1]
            if not self.grow():
                return b""

    def until(self, mark: "re.Pattern[bytes]", searched: int) -> "Generator[None, None, tuple[bytes, bool]]":
        """Goes on to what matches from the index `searched` on, or to the end of the file.

        Returns:
            What was passed over, of more than `JSON_SIZE_MAX` the beginning; and whether it was more.
        """
        kept: bytes | None = None
        while not (match := mark.search(self.buffer, searched)):
            # The mark may begin with the last bytes held.
            searched = max(searched, len(self.buffer) - 2)
            if searched - self.at > JSON_SIZE_MAX:
                kept = self.rest[:RAW_SIZE_MAX] if kept is None else kept
                self.at = searched
            searched -= self.at
            yield None
            if not self.grow():
                passed, self.at = self.rest, len(self.buffer)
                return (passed, False) if kept is None else (kept, True)
        passed, self.at = self.buffer[self.at : match.start()], match.start()
        return (passed, False) if kept is None else (kept, True)


def _line_frames(window: _Window) -> Frames:
    """Goes from line to line; blank ones are none."""
    flow = window.flow
    while True:
        buffer = window.buffer
        end = buffer.find(b"\n", window.at)
        if end >= 0:
            start, line = window.offset, buffer[window.at : end]
            window.at = end + 1
            if not line.isspace() and line:
                yield Frame(start, window.offset, line)
            continue
        start = window.offset
        line, too_long = yield from window.until(_NEWLINE, len(buffer))
        at_end = window.at == len(window.buffer)
        window.at += not at_end
        if too_long:
            yield Frame(start, window.offset, line, _too_large("a line"))
        elif at_end and flow.fault:
            break
        elif line.strip(BLANK):
            yield Frame(start, None if at_end else window.offset, line)
        if at_end:
            start, line = window.offset, b""
            break
    if flow.fault:
        yield ending(flow, start, line, "the line there is cut off")


def _too_large(what: str) -> str:
    return f"{what} of more than {JSON_SIZE_MAX:,} bytes, which no document has; its beginning is kept"


def _object_frames(window: _Window, *, array: bool) -> Frames:
    """Goes from object to object, by their braces; commas between them are looked at no further."""
    flow = window.flow
    if array and window.fresh and window.next_byte():
        window.at += 1
    while byte := window.next_byte():
        start = window.offset
        if byte == b"]" and array:
            window.at += 1
            if window.next_byte():
                yield Frame(
                    window.offset, None, kept_of(window.rest, flow), "more follows the end of the array; it is not read"
                )
            elif flow.fault:
                yield ending(flow, window.offset, b"", "")
            return
        if byte == b"," and array:
            window.at += 1
        elif byte in _TOKENS:
            frame = yield from _object(window, _Nesting(byte))
            yield frame
            if frame.end is None:
                return
        else:
            junk, too_long = yield from window.until(_JUNK, window.at + 1)
            yield Frame(start, window.offset, junk, _too_large("an entry") if too_long else None)
    if array or flow.fault:
        yield ending(flow, window.offset, b"", "the array has no end: the file is cut off there")


def _object(window: _Window, nesting: "_Nesting") -> "Generator[None, None, Frame]":
    """Gives the object that begins there, or what should be one."""
    start = window.offset
    seen = window.at
    while True:
        end, seen = nesting.end(window.buffer, seen)
        if end:
            raw, window.at = window.buffer[window.at : end], end
            return Frame(start, window.offset, raw)
        if nesting.broken or len(window.buffer) - window.at > JSON_SIZE_MAX:
            break
        seen -= window.at
        yield None
        if not window.grow():
            break
    # An object without an end takes in those that follow it: as mongoexport writes them, each begins a line.
    ended = not nesting.broken and len(window.buffer) <= JSON_SIZE_MAX
    if ended and not _NEXT_OBJECT.search(window.buffer, window.at + 1):
        rest, window.at = window.rest, len(window.buffer)
        return ending(window.flow, start, rest, "the object there is cut off")
    raw, too_long = yield from window.until(_NEXT_OBJECT, window.at + 1)
    problem = _too_large("an object") if too_long else "the object there has no end before the next one begins"
    if window.at == len(window.buffer) and window.flow.fault:
        return ending(window.flow, start, raw, problem)
    return Frame(start, window.offset, raw, problem)


class _Nesting:
    """Counts braces through an object, or brackets through a list, that is held piece by piece."""

    def __init__(self, opening: bytes) -> None:
        self._token = _TOKENS[opening]
        self.broken = False
        self._depth = 0
        self._in_text = False

    def end(self, buffer: bytes, at: int) -> tuple[int, int]:
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
        self.broken = buffer[at : at + 1] == b"\n"
        return 0, at
