"""Splits a stream of BSON into documents by their lengths, without decoding them."""

import struct

from graphjobs.backfill.extract.streams import (
    BSON_SIZE_MAX,
    ByteStream,
    RawRecord,
    RawRecords,
    excerpt,
    fill_buffer,
    truncated_record,
)


def bson_records(stream: ByteStream, offset: int) -> RawRecords:
    """Yield documents by their lengths. After an invalid length no document can be found."""
    buffer, at = b"", 0
    length_of = struct.Struct("<i").unpack_from
    while True:
        size = 4
        if len(buffer) - at >= 4:
            (size,) = length_of(buffer, at)
            if not 5 <= size <= BSON_SIZE_MAX:
                problem = f"{size:,} bytes is not the length of a document; the rest of the file is not read"
                yield RawRecord(offset, None, excerpt(buffer[at:], stream), problem)
                return
        if len(buffer) - at < size:
            buffer, at = fill_buffer(stream, buffer[at:], size), 0
            if len(buffer) < size:
                if buffer or stream.fault:
                    what = f"a document of {size:,} bytes" if len(buffer) >= 4 else "the next document"
                    yield truncated_record(stream, offset, buffer, f"{what} is cut off after {len(buffer):,} bytes")
                return
            continue
        yield RawRecord(offset, offset + size, buffer[at : at + size])
        at += size
        offset += size
