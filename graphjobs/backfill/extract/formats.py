"""The format of a dump by its first bytes. An unreadable one is refused with the command that makes it readable."""

import re
from pathlib import Path
from typing import BinaryIO, Final

from graphjobs.backfill.extract.decoding import safe_excerpt
from graphjobs.backfill.extract.dump_names import (
    archive_command,
    collection_of,
    describe_unreadable,
    export_command,
    quote_name,
)
from graphjobs.backfill.extract.json_framing import BLANK, BOM
from graphjobs.backfill.extract.streams import EXCERPT_SIZE_MAX, open_stream
from graphjobs.errors import ConfigurationError

_BSON_NAME: Final = re.compile(r"\.bson(\.gz)?$", re.IGNORECASE)
_ARCHIVE: Final = b"\x6d\xe2\x99\x81"
_MAGIC: Final = {
    b"\x1f\x8b": "gunzip",  # compressed twice: one compression is removed before
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x04\x22\x4d\x18": "unlz4",
    b"PK\x03\x04": "unzip",
    b"7z\xbc\xaf": "7z x",
}
_JSON_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SHELL_CALL: Final = re.compile(
    rb"[:\[,]\s*(?:new\s+)?(?:ISODate|Date|ObjectId|NumberLong|NumberInt|NumberDecimal|Long|Int32|Decimal128|Timestamp|"
    rb"UUID|LUUID|CSUUID|JUUID|PYUUID|NUUID|BinData|Binary)\s*\("
)
_SHELL_KEY: Final = re.compile(rb"[\[\s]*\{\s*[A-Za-z_$][\w$]*\s*:")
_CSV_NAME: Final = rb'(?:[\w.$\[\] -]+|"[\w.$\[\] -]+")'
_CSV: Final = re.compile(rb"(?=\"?_?[A-Za-z])%s(?:[,;\t]%s)+\r?\n|\"?_id\"?\r?\n" % (_CSV_NAME, _CSV_NAME))
_UTF_16: Final = re.compile(rb"[\[{]\0[^\0]\0|\0[\[{]\0[^\0]")
"""The beginning of JSON in UTF-16 without a byte order mark."""


def require_format(file: BinaryIO, path: Path, collection: str | None = None) -> str:
    """Return "bson", or the layout of JSON: "lines", "array" or "objects" (over several lines).

    Raises:
        ConfigurationError: the format is unreadable.
    """
    name = path.name
    head = open_stream(file).read()
    problem = _problem(head, name, collection or collection_of(name))
    file_format = None if problem else _detect_format(head, name.removesuffix(".gz"))
    if file_format is not None:
        return file_format
    raise ConfigurationError(f"{safe_excerpt(str(path))} {problem or 'is neither BSON nor JSON'}")


def _problem(head: bytes, name: str, collection: str | None) -> str | None:
    if head.startswith(_ARCHIVE):
        return f"is an archive of mongodump; {archive_command(name)}"
    for magic, command in _MAGIC.items():
        if head.startswith(magic):
            return f"is compressed: run `{command} {quote_name(name)}`"
    if (head.startswith((b"\xff\xfe", b"\xfe\xff")) or _UTF_16.match(head)) and not _BSON_NAME.search(name):
        return f"is text in UTF-16: run `iconv -f UTF-16 -t UTF-8 {quote_name(name)}`, or save it as UTF-8"
    if _is_bson(head):
        return None
    text = head[:EXCERPT_SIZE_MAX].removeprefix(BOM).lstrip(BLANK)
    if _SHELL_KEY.match(text) or _SHELL_CALL.search(_STRINGS.sub(b'""', text)):
        return f"is output of the mongo shell, which is not JSON: {export_command(collection)}"
    if _CSV.match(text):
        return f"is CSV, which has no types: {export_command(collection)}"
    unreadable = describe_unreadable(name)
    return f"must be converted first: {unreadable[1]}" if unreadable and not text.startswith((b"{", b"[")) else None


def _is_bson(head: bytes) -> bool:
    # The fourth byte of BSON is the high byte of a length of at most 16 MiB. Text holds no such byte.
    return len(head) >= 5 and head[3] <= 1  # the length of an empty document


def _detect_format(head: bytes, name: str) -> str | None:
    """Return the format by the first (decompressed) bytes, or by the name if they are ambiguous; None if unknown."""
    if _is_bson(head):
        return "bson"
    text = head.removeprefix(BOM).lstrip(BLANK)
    if text.startswith(b"["):
        return "array"
    if text.startswith(b"{"):
        first, newline, _ = text.partition(b"\n")
        return "objects" if newline and first.strip(BLANK) == b"{" else "lines"
    return "bson" if name.endswith(".bson") else "lines" if name.endswith(_JSON_SUFFIXES) or not text else None
