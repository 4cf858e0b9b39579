"""A damaged dump gives all that comes before the damage, says where it is, and never crashes."""

import gzip
import struct
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs import ConfigurationError
from graphjobs.backfill.extract import json_framing
from graphjobs.backfill.extract.records import END_OFFSET
from tests.backfill import dumps
from tests.backfill.source_helpers import (
    decode_document,
    decode_documents,
    decode_problem,
    decode_problems,
    read_records,
)

DOCUMENTS: list[dict[str, Any]] = [{"_id": str(number), "text": "}{\n" * number} for number in range(5)]


@pytest.mark.parametrize("form", ["bson", "jsonl", "array.json", "pretty.json"])
async def test_a_file_cut_at_any_byte_gives_what_came_before(tmp_path: Path, form: str) -> None:
    """Only where an entry ends can a cut not be seen, and in an array not even there is it missed."""
    content = dumps.encode_file(DOCUMENTS, form)
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(content)
    whole = await read_records(path)
    ends = [each.location.next.offset for each in whole]
    for at in range(len(content)):
        path.write_bytes(content[:at])
        found = await read_records(path)
        # The last line may lack its end and nothing else.
        complete = sum(end <= at or content[at:end] == b"\n" for end in ends)
        assert DOCUMENTS[:complete] == decode_documents(found)
        problems = decode_problems(found)
        at_an_end = (complete == 0 and not content[:at].strip(b"\n")) or not content[
            ends[complete - 1] if complete else 0 : at
        ].strip()
        if form == "array.json":
            whole_array = content[:at].rstrip().endswith(b"]") and complete == len(DOCUMENTS)
            assert (0 if whole_array or at == 0 else 1) == len(problems)
        else:
            assert (0 if at_an_end else 1) == len(problems)
        if problems:
            assert path.name in problems[0]
            assert END_OFFSET == found[-1].location.next.offset
            assert content[found[-1].location.offset : at] == found[-1].raw


@pytest.mark.parametrize("form", ["bson.gz", "jsonl.gz", "array.json.gz"])
async def test_a_compressed_file_cut_at_any_byte_gives_what_came_before(tmp_path: Path, form: str) -> None:
    """Nothing but the whole file is without a problem, and one that is not there at all."""
    content = dumps.encode_file(DOCUMENTS, form)
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.')}"
    before = 0
    for at in range(2, len(content)):
        path.write_bytes(content[:at])
        found = await read_records(path)
        read = decode_documents(found)
        assert DOCUMENTS[: len(read)] == read
        assert before <= len(read)
        before = len(read)
        assert "cut off" in decode_problems(found)[-1]
        assert path.name in decode_problems(found)[-1]
    assert before == len(DOCUMENTS)


@pytest.mark.parametrize("form", ["bson.gz", "jsonl.gz", "array.json.gz"])
async def test_a_corrupt_byte_anywhere_in_a_compressed_file_is_told(tmp_path: Path, form: str) -> None:
    """Wherever it is but in the header's own remarks, there is a problem; what comes before it is read."""
    content = dumps.encode_file(DOCUMENTS, form)
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.')}"
    for at in range(10, len(content)):
        path.write_bytes(content)
        dumps.flip_byte(path, at)
        found = await read_records(path)
        assert decode_problems(found), at
        if at >= len(content) - 8:  # the checksum, and the length
            assert DOCUMENTS == decode_documents(found)
            assert "checksum" in decode_problems(found)[-1]


async def test_what_follows_compressed_data_is_told(tmp_path: Path) -> None:
    """Another member is read, zeros are nothing, and anything else is a problem."""
    path = tmp_path / "graph_jobs.bson.gz"
    one = dumps.encode_file(DOCUMENTS, "bson.gz")
    for tail, times, problem in (
        (one, 2, ""),
        (b"\0" * 600_000, 1, ""),
        (b"garbage", 1, "is not gzip"),
        (b"\0\0garbage", 1, "is not gzip"),
        (b"\0\0" + one, 1, "is not gzip"),
        (b"\x1f", 1, "is not gzip"),
        (one[:14], 1, "cut off"),
    ):
        path.write_bytes(one + tail)
        found = await read_records(path)
        assert DOCUMENTS * times == decode_documents(found)
        assert [problem in each for each in decode_problems(found)] == ([True] if problem else [])


async def test_much_data_before_a_corrupt_place_is_not_lost(tmp_path: Path) -> None:
    """Decompression keeps back a chunk that holds a fault; what of it comes before the fault is read all the same."""
    documents = [{"_id": number, "text": f"{number}"} for number in range(20_000)]
    packed = gzip.compress(b"".join(bson.encode(document) for document in documents), 6)
    path = tmp_path / "graph_jobs.bson.gz"
    for at in (len(packed) // 2, len(packed) - 6):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])
        read = decode_documents(await read_records(path))
        assert documents[: len(read) - 2] == read[:-2]
        assert len(read) > 20_000 * (at - 2_000) / len(packed)


@pytest.mark.parametrize("size", [-(2**31), -1, 0, 4, 16 * 1024 * 1024 + 1, 2**31 - 1])
async def test_a_length_that_no_document_has_is_refused_with_its_place(tmp_path: Path, size: int) -> None:
    """And the rest of the file is kept in part and not guessed at."""
    before, after = bson.encode({"a": 1}), bson.encode({"b": 2})
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(before + struct.pack("<i", size) + after[4:] + after)
    found = await read_records(path)
    assert [{"a": 1}] == decode_documents(found)
    (problem,) = decode_problems(found)
    assert f"at byte {len(before)}" in problem
    assert f"{size:,} bytes" in problem
    assert struct.pack("<i", size) + after[4:] + after == found[-1].raw
    path.write_bytes(struct.pack("<i", size) + after[4:])
    assert 1 == len(decode_problems(await read_records(path)))


async def test_a_length_that_lies_harms_no_document_before(tmp_path: Path) -> None:
    """Whatever it says, within what a document may have, there are problems after it, and no crash."""
    before, lie = bson.encode({"a": 1}), bson.encode({"b": "text"})
    path = tmp_path / "graph_jobs.bson"
    for size in range(5, 3 * len(lie)):
        if size != len(lie):
            path.write_bytes(before + struct.pack("<i", size) + lie[4:] + lie)
            found = await read_records(path)
            assert {"a": 1} == decode_document(found[0])
            assert decode_problems(found)


async def test_a_document_that_cannot_be_decoded_harms_no_other(tmp_path: Path) -> None:
    """Its bytes are given whole, for the quarantine."""
    good = bson.encode({"a": "ok"})
    bad = good.replace(b"ok", b"\xff\xfe")
    nested = b"\x05\0\0\0\0"
    for _ in range(5_000):
        nested = struct.pack("<i", len(nested) + 8) + b"\x03a\0" + nested + b"\0"
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(good + bad + good + nested + good)
    found = await read_records(path)
    assert [{"a": "ok"}] * 3 == decode_documents(found)
    assert [bad, nested] == [each.raw for each in found if decode_problem(each)]
    assert [2, 4] == [each.location.ordinal for each in found if decode_problem(each)]
    assert decode_problems(found)[1].endswith("BSON must not nest deeper than 500 levels")


BAD_TEXTS = {
    b'{"a": }': "not valid JSON",
    b"nonsense": "not valid JSON",
    b'{"a": "\xff"}': "not UTF-8",
    b"\0\0\0": "not valid JSON",
    b'{"a": {"$oid": "secret"}}': "$oid holds an invalid value",
    b'{"a": {"$date": "yesterday"}}': "$date holds",
    b'{"a": {"$date": 1e999}}': "$date holds",
    b'{"a": {"$numberDecimal": "secret"}}': "$numberDecimal holds",
    b'{"a": {"$binary": {"base64": 1, "subType": "04"}}}': "$binary holds",
    b'{"a": {"$binary": 1, "$type": {}}}': "$binary holds",
    b'{"a": ' + b"9" * 5_000 + b"}": "more digits",
    b'{"a": ' * 5_000 + b"1" + b"}" * 5_000: "JSON must not nest deeper than 500 levels",
    b'{"$oid": "0123456789abcdef01234567"}': "must be an object",
    b"[[1, 2]]": "must be an object",
}


@pytest.mark.parametrize("form", ["lines", "array"])
@pytest.mark.parametrize("bad", BAD_TEXTS, ids=[str(number) for number in range(len(BAD_TEXTS))])
async def test_a_text_that_cannot_be_read_harms_no_other(tmp_path: Path, bad: bytes, form: str) -> None:
    """It is a problem with its bytes, and its values are not repeated."""
    path = tmp_path / "graph_jobs.json"
    joined = [b'{"a": 1}', bad, b'{"b": 2}']
    path.write_bytes(b"\n".join(joined) if form == "lines" else b"[" + b",\n".join(joined) + b"]")
    found = await read_records(path)
    assert [{"a": 1}, {"b": 2}] == decode_documents(found)
    told = decode_problems(found)
    # An array is cut at commas where it holds no objects, so that a word may be two.
    assert BAD_TEXTS[bad] in told[0]
    assert bad[:3] == (found[1].raw or b"")[:3]
    assert not [problem for problem in told if "secret" in problem or len(problem) > 400]


@pytest.mark.parametrize("broken", [b'{"a": "no end', b'{"a": {"b": 1}', b'{"a": "x" "b": "}'])
async def test_an_object_without_an_end_does_not_take_others_along(tmp_path: Path, broken: bytes) -> None:
    """In an array as mongoexport writes it, the next one begins a line."""
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(b'[{"a": 1},\n' + broken + b',\n{"b": 2},\n{"c": "\\n{"}]\n')
    found = await read_records(path)
    assert [{"a": 1}, {"b": 2}, {"c": "\n{"}] == decode_documents(found)
    assert 1 == len(decode_problems(found))


async def test_what_follows_an_array_is_told(tmp_path: Path) -> None:
    """It is not read, and not dropped silently."""
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(b'[{"a": 1}]\n{"b": 2}\n')
    found = await read_records(path)
    assert [{"a": 1}] == decode_documents(found)
    assert "more follows the end of the array" in decode_problems(found)[0]
    assert b'{"b": 2}\n' == found[-1].raw


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"x": "%s"}\n{"b": 2}\n',
        b'[{"a": 1},\n{"x": "%s"},\n{"b": 2}]',
        b'[{"a": 1},%s,{"b": 2}]',
        b'{\n"a": 1}\n{"x": "%s"}\n{"b": 2}\n',
    ],
)
async def test_a_text_too_large_to_be_a_document_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Its beginning is kept, and reading goes on after it."""
    monkeypatch.setattr(json_framing, "JSON_SIZE_MAX", 1024 * 1024)
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(content % (b"y" * 5_000_000))
    found = await read_records(path)
    assert [{"a": 1}, {"b": 2}] == decode_documents(found)
    assert "of more than 1,048,576 bytes" in decode_problems(found)[0]
    for number, each in enumerate(found, start=1):
        assert [later.location for later in found[number:]] == [
            later.location for later in await read_records(path, after=each.location.next)
        ]


@given(
    content=st.binary(max_size=80),
    start=st.sampled_from([b"", b"[", b"{\n", b'{"a":1}\n', b"\x05\0\0\0\0", b"\x1f\x8b\x08\0"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_crash_the_reading(tmp_path: Path, content: bytes, start: bytes) -> None:
    """Whatever a file holds, each entry is a document or a problem with its bytes."""
    for name in ("graph_jobs.bson", "graph_jobs.json.gz"):
        path = tmp_path / name
        path.write_bytes(start + content)
        try:
            whole = await read_records(path)
        except ConfigurationError:  # an archive, or UTF-16
            continue
        for found in whole:
            assert (decode_document(found) is None) == (decode_problem(found) is not None)
