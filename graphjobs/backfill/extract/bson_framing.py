"""Finds where the documents of a dump file begin and end, plain or compressed; what they mean is not known here.

Reading blocks, and memory is bounded: by one document, and a chunk. Whatever a file holds, nothing is raised but the
system's own errors, and every byte belongs to an entry: of a document, or of a problem.
"""

import struct
import zlib
from collections.abc import Generator
from typing import BinaryIO, Final, NamedTuple, TypeAlias

BSON_SIZE_MAX: Final = 16 * 1024 * 1024
"""The largest document MongoDB stores."""

EXCERPT_SIZE_MAX: Final = 64 * 1024
"""How much is kept of what is too large to be a document, or follows where reading ends."""

CHUNK_SIZE: Final = 256 * 1024
CHUNK_SIZE_MAX: Final = 4 * 1024 * 1024

BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_ARCHIVE: Final = b"\x6d\xe2\x99\x81"
BLANK: Final = b" \t\r\n"


class RawRecord(NamedTuple):
    """An entry of a file.

    Attributes:
        start: the byte it begins at.
        end: the byte the search for the next one begins at; None where nothing can follow.
        raw: its bytes; of a problem, as many as are kept.
        problem: what is wrong with it as a whole; None where its bytes are to be decoded.
    """

    start: int
    end: int | None
    raw: bytes
    problem: str | None = None


RawRecords: TypeAlias = Generator["RawRecord | None", None, None]
"""The entries of a file, and None now and then where the next one is long in coming."""


class PlainStream:
    """The bytes of a file as they are.

    Attributes:
        fault: why the bytes ended before their time; None where they have not.
        read_bytes: how far the file itself has been read.
    """

    fault: str | None = None

    def __init__(self, file: BinaryIO, offset: int = 0) -> None:
        self._file = file
        self.read_bytes = offset
        file.seek(offset)

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Gives the next bytes, nothing at the end."""
        chunk = self._file.read(size)
        self.read_bytes += len(chunk)
        return chunk


class GzipStream:
    """The bytes of a compressed file, of one member or more; see `Plain`.

    Bytes are given as they are decompressed, so those of a member come before its checksum has been compared.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: str | None = None
        self.read_bytes = 0
        self._packed = b""
        self._member = zlib.decompressobj(wbits=31)
        self._started = False
        self._at_end = False
        file.seek(0)

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Gives the next bytes, nothing at the end."""
        while not self._at_end:
            if self._member.eof and not self._next_member():
                break
            if not self._packed and not self._fill():
                if self._started:
                    self.fault = f"the compressed file is cut off at its byte {self.read_bytes:,}"
                break
            self._started = True
            if chunk := self._decompress(size):
                return chunk
        self._at_end = True
        return b""

    def _fill(self) -> bool:
        chunk = self._file.read(CHUNK_SIZE)
        self.read_bytes += len(chunk)
        self._packed += chunk
        return bool(chunk)

    def _next_member(self) -> bool:
        """Begins the member that follows; zeros may fill up the end of a file (of a tape, once)."""
        self._packed = self._member.unused_data + self._packed
        self._started = False
        while not (rest := self._packed.lstrip(b"\0")) and self._fill():
            self._packed = self._packed[-1:]
        if not rest:
            self._packed = b""
            return False
        if len(rest) < len(_GZIP):
            self._fill()
            rest = self._packed.lstrip(b"\0")
        if len(rest) < len(self._packed) or not rest.startswith(_GZIP):
            at = self.read_bytes - len(rest)
            self.fault = f"what follows the compressed data, at byte {at:,} of the file, is no gzip"
            return False
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _decompress(self, size: int) -> bytes:
        before = self._member.copy()
        packed, self._packed = self._packed, b""
        try:
            chunk = self._member.decompress(packed, size)
        except zlib.error:
            return self._salvage(before, packed)
        self._packed = self._member.unconsumed_tail
        return chunk

    def _salvage(self, member: "zlib._Decompress", packed: bytes) -> bytes:
        """Gives what comes before the fault: zlib itself keeps back all of a chunk that holds one."""
        chunks = []
        at = 0
        try:
            for at in range(len(packed)):
                chunks.append(member.decompress(packed[at : at + 1]))
        except zlib.error as error:
            told = "its checksum does not match" if "check" in str(error) else "its data is damaged"
            self.fault = f"the compressed file is corrupt at its byte {self.read_bytes - len(packed) + at:,}: {told}"
        self._at_end = True
        return b"".join(chunks)


ByteStream: TypeAlias = PlainStream | GzipStream


def is_gzip(file: BinaryIO) -> bool:
    """Tells a compressed file by its first bytes."""
    file.seek(0)
    return file.read(len(_GZIP)) == _GZIP


def detect_format(head: bytes, name: str) -> str | None:
    """Tells the format by the first (decompressed) bytes; by the name only where they tell nothing.

    Returns:
        "bson", "lines", "array" or "objects" (JSON over several lines), "archive" of mongodump, "utf-16", or None.
    """
    if head.startswith(_ARCHIVE):
        return "archive"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and not name.endswith(".bson"):
        return "utf-16"
    # The fourth byte of BSON is that of a length of at most 16 MiB, and none that text holds.
    if len(head) >= 5 and head[3] <= 1:
        return "bson"
    text = head.removeprefix(BOM).lstrip(BLANK)
    if text.startswith(b"["):
        return "array"
    if text.startswith(b"{"):
        first, newline, _ = text.partition(b"\n")
        return "objects" if newline and first.strip(BLANK) == b"{" else "lines"
    return "bson" if name.endswith(".bson") else "lines" if name.endswith((".json", ".jsonl", ".ndjson")) else None


def truncated_record(stream: ByteStream, start: int, rest: bytes, problem: str) -> RawRecord:
    """Gives the last frame of a file that does not end as it should."""
    told = f"{stream.fault}; {problem}" if stream.fault and rest else stream.fault or problem
    return RawRecord(start, None, rest, told)


def bson_records(stream: ByteStream, offset: int) -> RawRecords:
    """Goes from document to document of BSON by their lengths; where one is none of a document, there is no way on."""
    buffer, at = b"", 0
    length_of = struct.Struct("<i").unpack_from
    while True:
        size = 4
        if len(buffer) - at >= 4:
            (size,) = length_of(buffer, at)
            if not 5 <= size <= BSON_SIZE_MAX:
                problem = f"a length of {size:,} bytes, which no document has; nothing from there on can be read"
                yield RawRecord(offset, None, excerpt(buffer[at:], stream), problem)
                return
        if len(buffer) - at < size:
            buffer, at = _fill_buffer(stream, buffer[at:], size), 0
            if len(buffer) < size:
                if buffer or stream.fault:
                    told = f"a document of {size:,} bytes" if len(buffer) >= 4 else "the next document"
                    yield truncated_record(stream, offset, buffer, f"{told} is cut off after {len(buffer):,} bytes")
                return
            continue
        yield RawRecord(offset, offset + size, buffer[at : at + size])
        at += size
        offset += size


def _fill_buffer(stream: ByteStream, buffer: bytes, size: int) -> bytes:
    chunks, length = [buffer], len(buffer)
    while length < size and (chunk := stream.read(max(CHUNK_SIZE, min(size - length, CHUNK_SIZE_MAX)))):
        chunks.append(chunk)
        length += len(chunk)
    return b"".join(chunks)


def excerpt(rest: bytes, stream: ByteStream) -> bytes:
    """Gives the beginning of what is not read."""
    return _fill_buffer(stream, rest, EXCERPT_SIZE_MAX)[:EXCERPT_SIZE_MAX]
