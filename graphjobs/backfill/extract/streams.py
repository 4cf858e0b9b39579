"""Byte streams of plain and gzip files, and the raw records that the framing modules split them into.

Reads block. Memory is bounded by one document and one chunk. Only system errors are raised. Each byte of a file belongs
to a raw record, of a document or of a problem.
"""

import zlib
from collections.abc import Generator
from typing import BinaryIO, Final, NamedTuple, TypeAlias

CHUNK_SIZE: Final = 256 * 1024
CHUNK_SIZE_MAX: Final = 4 * 1024 * 1024
BSON_SIZE_MAX: Final = 16 * 1024 * 1024
"""The size of the largest document in MongoDB."""
EXCERPT_SIZE_MAX: Final = 64 * 1024
"""The number of bytes kept of data that is too large for a document, or that is not read."""

_GZIP: Final = b"\x1f\x8b"


class PlainStream:
    """The bytes of a plain file.

    Attributes:
        fault: why the data ended early; None if it did not.
        read_bytes: bytes read from the file itself.
    """

    fault: str | None = None

    def __init__(self, file: BinaryIO, offset: int = 0) -> None:
        self._file = file
        self.read_bytes = offset
        file.seek(offset)

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Return the next bytes, empty at the end."""
        chunk = self._file.read(size)
        self.read_bytes += len(chunk)
        return chunk


class GzipStream:
    """The decompressed bytes of a gzip file of one or more members; see `PlainStream`.

    A member's bytes are returned before its checksum is compared.
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
        """Return the next bytes, empty at the end."""
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
        """Start the next member. Zeros at the end of the file are padding."""
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
            self.fault = f"the data after the compressed data, at byte {at:,} of the file, is not gzip"
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
        """Return the data before the damage.

        A failing call of zlib discards its output. So this repeats the call byte by byte, with the state before it.
        """
        salvaged = bytearray()
        at = 0
        try:
            for at in range(len(packed)):
                salvaged += member.decompress(packed[at : at + 1])
        except zlib.error as error:
            cause = "its checksum does not match" if "check" in str(error) else "its data is damaged"
            self.fault = f"the compressed file is corrupt at its byte {self.read_bytes - len(packed) + at:,}: {cause}"
        self._at_end = True
        return bytes(salvaged)


ByteStream: TypeAlias = PlainStream | GzipStream


def open_stream(file: BinaryIO, offset: int = 0) -> ByteStream:
    """Return a plain file's bytes from `offset`, or all decompressed bytes of a gzip file."""
    return GzipStream(file) if is_gzip(file) else PlainStream(file, offset)


def is_gzip(file: BinaryIO) -> bool:
    """Check the first bytes of a file."""
    file.seek(0)
    return file.read(len(_GZIP)) == _GZIP


def fill_buffer(stream: ByteStream, data: bytes, size: int) -> bytes:
    """Return `data` with bytes of the stream appended, at least `size` bytes unless the stream ends."""
    chunks, length = [data], len(data)
    while length < size and (chunk := stream.read(max(CHUNK_SIZE, min(size - length, CHUNK_SIZE_MAX)))):
        chunks.append(chunk)
        length += len(chunk)
    return b"".join(chunks)


def excerpt(rest: bytes, stream: ByteStream) -> bytes:
    """Return the beginning of data that is not read."""
    return fill_buffer(stream, rest, EXCERPT_SIZE_MAX)[:EXCERPT_SIZE_MAX]


class RawRecord(NamedTuple):
    """One record of a file, not decoded.

    Attributes:
        start: byte of the file where the record begins.
        end: byte where the search for the next record begins; None if no record can follow.
        raw: the bytes; of a problem, at most `EXCERPT_SIZE_MAX` if there are more.
        problem: why the bytes are not a document; None if they can be decoded.
    """

    start: int
    end: int | None
    raw: bytes
    problem: str | None = None


RawRecords: TypeAlias = Generator["RawRecord | None", None, None]
"""The records of a file. A None says that the search for the next record takes longer."""


def truncated_record(stream: ByteStream, start: int, rest: bytes, problem: str) -> RawRecord:
    """Return the last record of a file that ends early."""
    text = f"{stream.fault}; {problem}" if stream.fault and rest else stream.fault or problem
    return RawRecord(start, None, rest, text)
