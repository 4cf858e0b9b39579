"""Opens a JSON file that a stranger gave: bounded, strict, one clear sentence for each thing that is wrong with it.

What the JSON means is not known here. A sentence does not name the file; who asked for the file does.
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

PATH_LENGTH_MAX: Final = 200
WORD_LENGTH_MAX: Final = 80

_CHUNK_BYTES: Final = 1024 * 1024
_CUT_TOKEN_LENGTH_MAX: Final = 10


class DocumentError(Exception):
    """What is wrong with a file, in one sentence of printable text that does not name the file."""


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object read from a file.

    Attributes:
        digest: "sha256:" and 64 hexadecimal digits, of the file's bytes.
        fields: the object.
    """

    digest: str
    fields: dict[str, Any]


def read_document(path: Path, *, size_max_bytes: int) -> Document:
    """Reads a JSON object from a regular file of UTF-8 text (a byte order mark may lead).

    Raises:
        DocumentError: the file cannot be read, is empty, larger than the limit, or holds no JSON object.
    """
    with _regular_file(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # One byte past the limit is asked for: the size may be out of date, or (in /proc) never have been true.
        content = b"" if size_bytes > size_max_bytes else b"".join(_chunks(file, size_max_bytes + 1))
    if size_bytes > size_max_bytes or len(content) > size_max_bytes:
        raise DocumentError(f"the file is larger than the limit of {size_max_bytes:,} bytes")
    if not content or content.isspace():
        raise DocumentError("the file is empty")
    value = _parsed(content)
    if not isinstance(value, dict):
        raise DocumentError(f"the file should hold a JSON object, not {kind_of(value)}")
    return Document(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", fields=value)


def digest_head(path: Path, *, size_max_bytes: int) -> str:
    """Gives "sha256:" and the digest of at most the first `size_max_bytes` of a regular file.

    Raises:
        DocumentError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with _regular_file(path) as file:
        for chunk in _chunks(file, size_max_bytes):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def _regular_file(path: Path) -> Iterator[BufferedReader]:
    try:
        # A pipe or a device may have no end, or make us wait for ever: neither is opened in earnest.
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DocumentError("this is a pipe or a device, not a regular file")
            yield file
    except FileNotFoundError:
        raise DocumentError("there is no such file") from None
    except IsADirectoryError:
        raise DocumentError("this is a directory, not a file") from None
    except PermissionError:
        raise DocumentError("the file may not be read: permission denied") from None
    except OSError as error:
        raise DocumentError(f"the file cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise DocumentError("the path holds characters that no path can hold") from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _chunks(file: BufferedReader, size_max_bytes: int) -> Iterator[bytes]:
    left_bytes = size_max_bytes
    while left_bytes > 0 and (chunk := file.read(min(left_bytes, _CHUNK_BYTES))):
        left_bytes -= len(chunk)
        yield chunk


def _parsed(content: bytes) -> object:
    # Each error is raised after its handler: chained to its cause it would keep the whole file in memory.
    try:
        text = content.decode("utf-8-sig")
        deep = nests_deeper(content, DECODED_DEPTH_MAX)
        value: object = None if deep else json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        at_end = error.reason == "unexpected end of data"
        problem = "it is cut off within a character" if at_end else "it is not UTF-8 text"
    except json.JSONDecodeError as error:
        problem = _syntax_problem(error)
    except ValueError:
        problem = "it holds an integer of more digits than Python reads"
    else:
        if not deep:
            return value
        problem = too_deep(DECODED_DEPTH_MAX)
    raise DocumentError(f"the file cannot be read as JSON: {problem}")


def _refuse_constant(constant: str) -> NoReturn:
    raise DocumentError(f"the file holds {constant}, which is no JSON number")


def _syntax_problem(error: json.JSONDecodeError) -> str:
    start = error.doc[:WORD_LENGTH_MAX].lstrip()
    if start.startswith("<"):
        return "it looks like XML"
    if error.msg == "Extra data":
        return f"more follows its end, at line {error.lineno}, column {error.colno}"
    tail = error.doc[error.pos : error.pos + _CUT_TOKEN_LENGTH_MAX + 1].strip()
    # An escape or a word cut in two is told from a wrong one by what follows: nothing.
    at_end = len(tail) <= _CUT_TOKEN_LENGTH_MAX and not tail.endswith(("}", "]"))
    if start.startswith("{") and (at_end or error.msg.startswith("Unterminated string")):
        return f"it is cut off at line {error.lineno}, column {error.colno}"
    return f"{error.msg[0].lower()}{error.msg[1:]} at line {error.lineno}, column {error.colno}"


def clean_text(text: str, length_max: int) -> str:
    """Makes a stranger's text fit for a terminal, a log and a database: one line, printable, cut to `length_max`."""
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for character in " ".join(text[: 2 * length_max].split())
        )
    return text if len(text) <= length_max else f"{text[: length_max - 1]}…"


def show_path(path: Path) -> str:
    """Gives a path as an error may name it: printable, and of a long one its end, which tells most."""
    text = str(path)
    return clean_text(text if len(text) <= PATH_LENGTH_MAX else f"…{text[1 - PATH_LENGTH_MAX :]}", PATH_LENGTH_MAX)


def kind_of(value: object) -> str:
    """Names a JSON value's type, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case list():
            return "a list"
    return "an object"


def read_object(value: object, where: str) -> dict[str, Any]:
    """Gives the value as an object; `where` names it in the error.

    Raises:
        DocumentError: it is none.
    """
    if not isinstance(value, dict):
        raise DocumentError(f"{where} should be an object, not {kind_of(value)}")
    return value


def read_list(fields: dict[str, Any], key: str, where: str = "") -> list[Any]:
    """Gives a field as a list, an absent one as an empty list.

    Raises:
        DocumentError: it is there, and no list.
    """
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise DocumentError(f"{_place(where, key)} should be a list, not {kind_of(value)}")
    return value


def read_text(fields: dict[str, Any], key: str, where: str = "") -> str | None:
    """Gives a field as text as it stands, None where it is absent.

    Raises:
        DocumentError: it is there, and no text.
    """
    if key not in fields:
        return None
    value = fields[key]
    if not isinstance(value, str):
        raise DocumentError(f"{_place(where, key)} should be text, not {kind_of(value)}")
    return value


def _place(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
