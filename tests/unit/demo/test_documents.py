"""Untrusted files are read within bounds, or refused in one sentence."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs.demo.documents import (
    DocumentError,
    clean_text,
    digest_head,
    read_document,
    show_path,
)

LIMIT_BYTES = 4_096


def error_of(path: Path, size_max_bytes: int = LIMIT_BYTES) -> str:
    """Return the error of a file."""
    with pytest.raises(DocumentError) as caught:
        read_document(path, size_max_bytes=size_max_bytes)
    return str(caught.value)


def error_of_content(content: bytes, directory: Path) -> str:
    """Return the error of a content."""
    path = directory / "document.json"
    path.write_bytes(content)
    return error_of(path)


def test_an_object_is_read_with_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """The digest includes the byte order mark and the spaces."""
    content = b'\xef\xbb\xbf {"name": "caf\xc3\xa9"} \n'
    path = tmp_path / "document.json"
    path.write_bytes(content)

    document = read_document(path, size_max_bytes=len(content))

    assert document.fields == {"name": "café"}
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == document.digest


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b" \n ", "the file is empty"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "it is not UTF-8 text"),
        ('{"name": "x"}'.encode("utf-16"), "it is not UTF-8 text"),
        (b'{"name": "caf\xc3', "it is truncated within a character"),
        (b'{"name": "x", "version"', "it is truncated at line 1, column 24"),
        (b'{"name": "x', "it is truncated at line 1, column 10"),
        (b'{"name": nope}', "expecting value at line 1, column 10"),
        (b'{"name": "x"} trailing', "there is data after its end, at line 1, column 15"),
        (b"hello", "expecting value at line 1, column 1"),
        (b'<?xml version="1.0"?><bom/>', "it looks like XML"),
        (b'{"version": NaN}', "the file contains NaN, which is not a JSON number"),
        (b'{"version": [-Infinity]}', "the file contains -Infinity, which is not a JSON number"),
        (b"[1, 2]", "the file must contain a JSON object, not a list"),
        (b'"text"', "the file must contain a JSON object, not text"),
        (b"null", "the file must contain a JSON object, not null"),
        (b"true", "the file must contain a JSON object, not true or false"),
        (b"1.5", "the file must contain a JSON object, not a number"),
    ],
)
def test_content_that_is_not_a_json_object_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    assert error_of_content(content, tmp_path).endswith(sentence)


def test_an_integer_with_too_many_digits_is_refused(tmp_path: Path) -> None:
    """Python reads integers of at most 4,300 digits, because the work is quadratic."""
    path = tmp_path / "document.json"
    path.write_text(f'{{"version": {"9" * 5_000}}}')

    assert "an integer with more digits than Python reads" in error_of(path, size_max_bytes=10_000)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    """A file of brackets must not raise RecursionError; 500 levels are read on every Python."""
    path = tmp_path / "document.json"
    sentence = "the file is not valid JSON: JSON must not nest deeper than 500 levels"
    for deep in ('{"a":' * 200_000, '{"a":' * 501 + "1" + "}" * 501):
        path.write_text(deep)
        assert error_of(path, size_max_bytes=2_000_000) == sentence
    path.write_text('{"a":' * 500 + "1" + "}" * 500)
    assert read_document(path, size_max_bytes=2_000_000).fields == json.loads(path.read_text())


def test_an_error_keeps_nothing_of_the_file_in_memory(tmp_path: Path) -> None:
    """The JSON error contains the whole text, so it must not be the cause or context of ours."""
    path = tmp_path / "document.json"
    path.write_text('{"name": nope}')

    with pytest.raises(DocumentError) as caught:
        read_document(path, size_max_bytes=LIMIT_BYTES)

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_file_truncated_anywhere_is_reported_as_truncated(ascii_only: bool, tmp_path: Path) -> None:
    """The error text names the truncation, not a missing delimiter."""
    fields: dict[str, object] = {
        "name": 'café "😀"',
        "list": [1, -2.5e10, True, False, None, {}, []],
        "nested": {"a": "\x01"},
    }
    whole = json.dumps(fields, ensure_ascii=ascii_only).encode()

    for end in range(1, len(whole)):
        assert "it is truncated" in error_of_content(whole[:end], tmp_path), whole[:end]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path / "missing.json") == "the file does not exist"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A directory of SBOMs is not an SBOM."""
    assert error_of(tmp_path) == "the path is a directory, not a file"


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """Other errors of the operating system are part of the error text."""
    (tmp_path / "file").touch()

    assert error_of(tmp_path / "file" / "sbom.json") == "reading the file failed: Not a directory"


def test_an_invalid_path_is_refused() -> None:
    """Python raises ValueError, not OSError, for a NUL in a path."""
    assert error_of(Path("a\0b")) == "the path contains invalid characters"


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is simulated, because the superuser may read every file."""

    def deny(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "document.json").write_text("{}")
    monkeypatch.setattr("graphjobs.demo.documents.os.open", deny)

    assert error_of(tmp_path / "document.json") == "reading the file failed: permission denied"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_without_a_writer_is_refused_immediately(tmp_path: Path) -> None:
    """A blocking open would wait forever; with the thread, this test fails instead."""
    os.mkfifo(tmp_path / "pipe")
    sentences: list[str] = []
    reader = threading.Thread(target=lambda: sentences.append(error_of(tmp_path / "pipe")), daemon=True)

    reader.start()
    reader.join(timeout=10)

    assert sentences == ["the path is a pipe or a device, not a regular file"]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_device_is_refused() -> None:
    """Its size is 0, and its content is endless."""
    assert error_of(Path("/dev/zero")) == "the path is a pipe or a device, not a regular file"


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(b'{"a": 1}'.ljust(2_000))

    assert read_document(path, size_max_bytes=2_000).fields == {"a": 1}
    assert error_of(path, size_max_bytes=1_999) == "the file must have at most 1,999 bytes"


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is checked first: a sparse file of a terabyte takes no time."""
    path = tmp_path / "document.json"
    with path.open("wb") as file:
        file.truncate(2**40)

    def fail(*arguments: object) -> None:
        pytest.fail("the file was read")

    monkeypatch.setattr("graphjobs.demo.documents._chunks", fail)

    assert "must have at most 4,096 bytes" in error_of(path)


def test_a_file_that_grows_during_the_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the file system reports a size of 0, at most the limit and one byte are read."""
    path = tmp_path / "document.json"
    path.write_bytes(b" " * (LIMIT_BYTES + 10))
    stale = os.stat_result((0o100644, *[0] * 9))
    monkeypatch.setattr("graphjobs.demo.documents.os.fstat", lambda _: stale)

    assert "must have at most 4,096 bytes" in error_of(path)


def test_the_digest_of_a_head_stops_at_the_limit(tmp_path: Path) -> None:
    """Bytes after the limit are ignored."""
    path = tmp_path / "document.json"
    path.write_bytes(b"abcdef")

    assert f"sha256:{hashlib.sha256(b'abc').hexdigest()}" == digest_head(path, size_max_bytes=3)
    assert f"sha256:{hashlib.sha256(b'abcdef').hexdigest()}" == digest_head(path, size_max_bytes=3_000_000)


@given(text=st.text(), length_max=st.integers(min_value=1, max_value=50))
def test_cleaned_text_is_printable_and_short(text: str, length_max: int) -> None:
    """Terminal escapes, newlines, NULs and lone surrogates are replaced."""
    cleaned = clean_text(text, length_max)

    assert cleaned.isprintable()
    assert len(cleaned) <= length_max
    assert cleaned == cleaned.encode().decode()


@given(text=st.text(alphabet=st.characters(exclude_categories=("C", "Z"))))
def test_printable_text_is_unchanged(text: str) -> None:
    assert text == clean_text(text, max(1, len(text)))


def test_a_long_path_is_cut_to_its_end() -> None:
    """The file name is more specific than its directories."""
    shown = show_path(Path("/" + "folder/" * 100 + "s\x1b[2Jbom.json"))

    assert shown.startswith("…")
    assert shown.endswith("/s\N{REPLACEMENT CHARACTER}[2Jbom.json")
    assert len(shown) == 200
