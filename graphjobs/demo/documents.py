"""Read untrusted JSON files: bounded and strict, with one error sentence per defect.

The module does not interpret the JSON. Its error sentences do not name the file; the caller adds the name.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NoReturn

from graphjobs.core.json_values import DECODED_DEPTH_MAX, nests_deeper, too_deep
from graphjobs.core.unique_json import DuplicateKey, unique_object

PATH_LENGTH_MAX: Final = 200
WORD_LENGTH_MAX: Final = 80

_CHUNK_BYTES: Final = 1024 * 1024
_CUT_TOKEN_LENGTH_MAX: Final = 10


class DocumentError(Exception):
    """An invalid file: one sentence of printable text that does not name the file."""


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object of a file.

    Attributes:
        digest: "sha256:" and 64 hexadecimal digits, of the bytes of the file.
        fields: the object.
    """

    digest: str
    fields: dict[str, Any]


def read_document(path: Path, *, size_max_bytes: int) -> Document:
    """Read a JSON object from a regular file of UTF-8 text, with or without a byte order mark.

    Raises:
        DocumentError: the file is unreadable, empty, larger than the limit, or does not contain a JSON object.
    """
    with _regular_file(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # Read one byte more than the limit: the size may be out of date, and in /proc it is wrong.
        content = b"" if size_bytes > size_max_bytes else b"".join(_chunks(file, size_max_bytes + 1))
    if size_bytes > size_max_bytes or len(content) > size_max_bytes:
        raise DocumentError(f"the file must have at most {size_max_bytes:,} bytes")
    if not content or content.isspace():
        raise DocumentError("the file is empty")
    value = _parse(content)
    if not isinstance(value, dict):
        raise DocumentError(f"the file must contain a JSON object, not {type_name(value)}")
    return Document(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", fields=value)


def digest_head(path: Path, *, size_max_bytes: int) -> str:
    """Return "sha256:" and the digest of at most the first `size_max_bytes` of a regular file.

    Raises:
        DocumentError: the file is unreadable.
    """
    digest = hashlib.sha256()
    with _regular_file(path) as file:
        for chunk in _chunks(file, size_max_bytes):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def _regular_file(path: Path) -> Iterator[BufferedReader]:
    try:
        # Reading a pipe or a device may block forever: open without waiting, then check the type.
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DocumentError("the path is a pipe or a device, not a regular file")
            yield file
    except FileNotFoundError:
        raise DocumentError("the file does not exist") from None
    except IsADirectoryError:
        raise DocumentError("the path is a directory, not a file") from None
    except PermissionError:
        raise DocumentError("reading the file failed: permission denied") from None
    except OSError as error:
        raise DocumentError(f"reading the file failed: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise DocumentError("the path contains invalid characters") from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _chunks(file: BufferedReader, size_max_bytes: int) -> Iterator[bytes]:
    remaining_bytes = size_max_bytes
    while remaining_bytes > 0 and (chunk := file.read(min(remaining_bytes, _CHUNK_BYTES))):
        remaining_bytes -= len(chunk)
        yield chunk


def _parse(content: bytes) -> object:
    # Errors are raised after the handlers: with the cause as context they would keep the whole file in memory.
    try:
        text = content.decode("utf-8-sig")
        deep = nests_deeper(content, DECODED_DEPTH_MAX)
        value: object = None
        if not deep:
            value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=unique_object)
    except UnicodeDecodeError as error:
        at_end = error.reason == "unexpected end of data"
        problem = "it is truncated within a character" if at_end else "it is not UTF-8 text"
    except DuplicateKey as error:
        problem = f'an object has "{clean_text(error.key, WORD_LENGTH_MAX)}" twice'
    except json.JSONDecodeError as error:
        problem = _syntax_problem(error)
    except ValueError:
        problem = "it contains an integer with more digits than Python reads"
    else:
        if not deep:
            return value
        problem = too_deep(DECODED_DEPTH_MAX)
    raise DocumentError(f"the file is not valid JSON: {problem}")


def _refuse_constant(constant: str) -> NoReturn:
    raise DocumentError(f"the file contains {constant}, which is not a JSON number")


def _syntax_problem(error: json.JSONDecodeError) -> str:
    start = error.doc[:WORD_LENGTH_MAX].lstrip()
    if start.startswith("<"):
        return "it looks like XML"
    if error.msg == "Extra data":
        return f"there is data after its end, at line {error.lineno}, column {error.colno}"
    tail = error.doc[error.pos : error.pos + _CUT_TOKEN_LENGTH_MAX + 1].strip()
    # A truncated escape or word, unlike an invalid one, is at the end of the text.
    at_end = len(tail) <= _CUT_TOKEN_LENGTH_MAX and not tail.endswith(("}", "]"))
    if start.startswith("{") and (at_end or error.msg.startswith("Unterminated string")):
        return f"it is truncated at line {error.lineno}, column {error.colno}"
    return f"{error.msg[0].lower()}{error.msg[1:]} at line {error.lineno}, column {error.colno}"


def clean_text(text: str, length_max: int) -> str:
    """Make untrusted text safe for terminals, logs and databases: one line, printable, cut to `length_max`."""
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for character in " ".join(text[: 2 * length_max].split())
        )
    return text if len(text) <= length_max else f"{text[: length_max - 1]}…"


def show_path(path: Path) -> str:
    """Return a path for an error text: printable, and cut to its end, which is the most specific part."""
    text = str(path)
    return clean_text(text if len(text) <= PATH_LENGTH_MAX else f"…{text[1 - PATH_LENGTH_MAX :]}", PATH_LENGTH_MAX)


_TYPE_NAMES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "true or false",
    str: "text",
    int: "a number",
    float: "a number",
    list: "a list",
}


def type_name(value: object) -> str:
    """Return the name of a JSON value's type, for people."""
    return _TYPE_NAMES.get(type(value), "an object")


def read_object(value: object, where: str) -> dict[str, Any]:
    """Return the value if it is an object; errors name it by `where`.

    Raises:
        DocumentError: the value is not an object.
    """
    if not isinstance(value, dict):
        raise DocumentError(f"{where} must be an object, not {type_name(value)}")
    return value


def read_list(fields: dict[str, Any], key: str, where: str = "") -> list[Any]:
    """Return a field that is a list; an absent field and null are an empty list.

    Raises:
        DocumentError: the field is not a list.
    """
    value = fields.get(key)
    if value is None:  # as tools in Go write an empty list
        return []
    if not isinstance(value, list):
        raise DocumentError(f"{_field_path(where, key)} must be a list, not {type_name(value)}")
    return value


def read_text(fields: dict[str, Any], key: str, where: str = "") -> str | None:
    """Return a field that is text, unchanged; an absent field and null are None.

    Raises:
        DocumentError: the field is not text.
    """
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DocumentError(f"{_field_path(where, key)} must be text, not {type_name(value)}")
    return value


def _field_path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
