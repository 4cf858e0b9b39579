"""A stranger's file is read within bounds, or refused in one sentence."""

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


def refusal(path: Path, size_max_bytes: int = LIMIT_BYTES) -> str:
    """Gives the sentence a file is refused with."""
    with pytest.raises(DocumentError) as caught:
        read_document(path, size_max_bytes=size_max_bytes)
    return str(caught.value)


def refusal_of(content: bytes, folder: Path) -> str:
    """Gives the sentence a content is refused with."""
    path = folder / "document.json"
    path.write_bytes(content)
    return refusal(path)


def test_an_object_is_read_with_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """The digest is of the bytes as they are, the byte order mark and the spaces included."""
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
        (b'{"name": "caf\xc3', "it is cut off within a character"),
        (b'{"name": "x", "version"', "it is cut off at line 1, column 24"),
        (b'{"name": "x', "it is cut off at line 1, column 10"),
        (b'{"name": nope}', "expecting value at line 1, column 10"),
        (b'{"name": "x"} trailing', "more follows its end, at line 1, column 15"),
        (b"hello", "expecting value at line 1, column 1"),
        (b'<?xml version="1.0"?><bom/>', "it looks like XML"),
        (b'{"version": NaN}', "the file holds NaN, which is no JSON number"),
        (b'{"version": [-Infinity]}', "the file holds -Infinity, which is no JSON number"),
        (b"[1, 2]", "the file should hold a JSON object, not a list"),
        (b'"text"', "the file should hold a JSON object, not text"),
        (b"null", "the file should hold a JSON object, not null"),
        (b"true", "the file should hold a JSON object, not true or false"),
        (b"1.5", "the file should hold a JSON object, not a number"),
    ],
)
def test_a_content_that_is_no_json_object_is_refused_with_what_is_wrong(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    """Each fault has its own words."""
    assert refusal_of(content, tmp_path).endswith(sentence)


def test_an_integer_of_too_many_digits_is_refused(tmp_path: Path) -> None:
    """Python turns at most 4,300 digits into an integer, for the work grows with their square."""
    path = tmp_path / "document.json"
    path.write_text(f'{{"version": {"9" * 5_000}}}')

    assert "an integer of more digits than Python reads" in refusal(path, size_max_bytes=10_000)


def test_json_that_nests_too_deep_is_refused(tmp_path: Path) -> None:
    """A file of brackets alone must not end the worker with a RecursionError; 500 levels are read on every Python."""
    path = tmp_path / "document.json"
    sentence = "the file cannot be read as JSON: JSON must not nest deeper than 500 levels"
    for deep in ('{"a":' * 200_000, '{"a":' * 501 + "1" + "}" * 501):
        path.write_text(deep)
        assert refusal(path, size_max_bytes=2_000_000) == sentence
    path.write_text('{"a":' * 500 + "1" + "}" * 500)
    assert read_document(path, size_max_bytes=2_000_000).fields == json.loads(path.read_text())


def test_an_error_keeps_nothing_of_the_file_in_memory(tmp_path: Path) -> None:
    """The JSON error holds the whole text, so ours must not be chained to it."""
    path = tmp_path / "document.json"
    path.write_text('{"name": nope}')

    with pytest.raises(DocumentError) as caught:
        read_document(path, size_max_bytes=LIMIT_BYTES)

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_file_cut_off_anywhere_is_said_to_be_cut_off(ascii_only: bool, tmp_path: Path) -> None:
    """Wherever a download stopped, the sentence says so and does not speak of delimiters."""
    fields: dict[str, object] = {
        "name": 'café "😀"',
        "list": [1, -2.5e10, True, False, None, {}, []],
        "nested": {"a": "\x01"},
    }
    whole = json.dumps(fields, ensure_ascii=ascii_only).encode()

    for end in range(1, len(whole)):
        assert "it is cut off" in refusal_of(whole[:end], tmp_path), whole[:end]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """No traceback for a misspelt name."""
    assert refusal(tmp_path / "missing.json") == "there is no such file"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A folder of SBOMs is not an SBOM."""
    assert refusal(tmp_path) == "this is a directory, not a file"


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """What the operating system says is passed on where we have no words of our own."""
    (tmp_path / "file").touch()

    assert refusal(tmp_path / "file" / "sbom.json") == "the file cannot be read: Not a directory"


def test_a_path_that_cannot_be_is_refused() -> None:
    """Python raises ValueError, not OSError, for a NUL in a path."""
    assert refusal(Path("a\0b")) == "the path holds characters that no path can hold"


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is simulated, for the superuser may read everything."""

    def deny(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "document.json").write_text("{}")
    monkeypatch.setattr("graphjobs.demo.documents.os.open", deny)

    assert refusal(tmp_path / "document.json") == "the file may not be read: permission denied"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it the plain way would wait for a writer for ever; the thread lets this test fail instead of wait."""
    os.mkfifo(tmp_path / "pipe")
    sentences: list[str] = []
    reader = threading.Thread(target=lambda: sentences.append(refusal(tmp_path / "pipe")), daemon=True)

    reader.start()
    reader.join(timeout=10)

    assert sentences == ["this is a pipe or a device, not a regular file"]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero here")
def test_an_endless_device_is_refused() -> None:
    """Its size is 0 and its content has no end."""
    assert refusal(Path("/dev/zero")) == "this is a pipe or a device, not a regular file"


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    """The limit is a limit, and the sentence names it."""
    path = tmp_path / "document.json"
    path.write_bytes(b'{"a": 1}'.ljust(2_000))

    assert read_document(path, size_max_bytes=2_000).fields == {"a": 1}
    assert refusal(path, size_max_bytes=1_999) == "the file is larger than the limit of 1,999 bytes"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is asked first: a sparse file of a terabyte costs nothing."""
    path = tmp_path / "document.json"
    with path.open("wb") as file:
        file.truncate(2**40)

    def fail(*arguments: object) -> None:
        pytest.fail("the file was read")

    monkeypatch.setattr("graphjobs.demo.documents._chunks", fail)

    assert "larger than the limit" in refusal(path)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size said 0; no more than the limit and one byte is read all the same."""
    path = tmp_path / "document.json"
    path.write_bytes(b" " * (LIMIT_BYTES + 10))
    stale = os.stat_result((0o100644, *[0] * 9))
    monkeypatch.setattr("graphjobs.demo.documents.os.fstat", lambda _: stale)

    assert "larger than the limit" in refusal(path)


def test_the_digest_of_a_head_stops_at_the_limit(tmp_path: Path) -> None:
    """Two files that differ only past the limit look alike, and cost alike."""
    path = tmp_path / "document.json"
    path.write_bytes(b"abcdef")

    assert f"sha256:{hashlib.sha256(b'abc').hexdigest()}" == digest_head(path, size_max_bytes=3)
    assert f"sha256:{hashlib.sha256(b'abcdef').hexdigest()}" == digest_head(path, size_max_bytes=3_000_000)


@given(text=st.text(), length_max=st.integers(min_value=1, max_value=50))
def test_cleaned_text_is_printable_and_short(text: str, length_max: int) -> None:
    """No terminal escape, no newline, no NUL and no lone surrogate comes through."""
    cleaned = clean_text(text, length_max)

    assert cleaned.isprintable()
    assert len(cleaned) <= length_max
    assert cleaned == cleaned.encode().decode()


@given(text=st.text(alphabet=st.characters(exclude_categories=("C", "Z"))))
def test_printable_text_stays_as_it_is(text: str) -> None:
    """Cleaning changes nothing that is clean."""
    assert text == clean_text(text, max(1, len(text)))


def test_a_long_path_is_shown_by_its_end() -> None:
    """The file's name tells more than the folders above it."""
    shown = show_path(Path("/" + "folder/" * 100 + "s\x1b[2Jbom.json"))

    assert shown.startswith("…")
    assert shown.endswith("/s\N{REPLACEMENT CHARACTER}[2Jbom.json")
    assert len(shown) == 200
