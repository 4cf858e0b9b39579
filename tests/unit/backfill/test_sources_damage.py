"""A damaged dump yields all documents before the damage, and the location of the damage."""

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


@pytest.mark.parametrize("file_format", ["bson", "jsonl", "array.json", "pretty.json"])
async def test_a_cut_file_yields_the_documents_before_the_cut(tmp_path: Path, file_format: str) -> None:
    """A cut at the end of a record is not visible, except in an array."""
    content = dumps.encode_file(DOCUMENTS, file_format)
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(content)
    whole = await read_records(path)
    ends = [record.location.next.offset for record in whole]
    for at in range(len(content)):
        path.write_bytes(content[:at])
        records = await read_records(path)
        # The last line may lack only its line break.
        complete = sum(end <= at or content[at:end] == b"\n" for end in ends)
        assert DOCUMENTS[:complete] == decode_documents(records)
        problems = decode_problems(records)
        at_an_end = (complete == 0 and not content[:at].strip(b"\n")) or not content[
            ends[complete - 1] if complete else 0 : at
        ].strip()
        if file_format == "array.json":
            whole_array = content[:at].rstrip().endswith(b"]") and complete == len(DOCUMENTS)
            assert (0 if whole_array or at == 0 else 1) == len(problems)
        else:
            assert (0 if at_an_end else 1) == len(problems)
        if problems:
            assert path.name in problems[0]
            assert END_OFFSET == records[-1].location.next.offset
            assert content[records[-1].location.offset : at] == records[-1].raw


@pytest.mark.parametrize("file_format", ["bson.gz", "jsonl.gz", "array.json.gz"])
async def test_a_cut_compressed_file_yields_the_documents_before_the_cut(tmp_path: Path, file_format: str) -> None:
    """Every cut reports a problem."""
    content = dumps.encode_file(DOCUMENTS, file_format)
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.')}"
    before = 0
    for at in range(2, len(content)):
        path.write_bytes(content[:at])
        records = await read_records(path)
        documents = decode_documents(records)
        assert DOCUMENTS[: len(documents)] == documents
        assert before <= len(documents)
        before = len(documents)
        assert "cut off" in decode_problems(records)[-1]
        assert path.name in decode_problems(records)[-1]
    assert before == len(DOCUMENTS)


@pytest.mark.parametrize("file_format", ["bson.gz", "jsonl.gz", "array.json.gz"])
async def test_a_corrupt_byte_in_a_compressed_file_is_reported(tmp_path: Path, file_format: str) -> None:
    """Every byte after the header counts, and the documents before it are read."""
    content = dumps.encode_file(DOCUMENTS, file_format)
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.')}"
    for at in range(10, len(content)):
        path.write_bytes(content)
        dumps.flip_byte(path, at)
        records = await read_records(path)
        assert decode_problems(records), at
        if at >= len(content) - 8:  # the checksum, and the length
            assert DOCUMENTS == decode_documents(records)
            assert "checksum" in decode_problems(records)[-1]


async def test_data_after_compressed_data_is_reported(tmp_path: Path) -> None:
    """Another member is read, zeros are ignored, and other data is a problem."""
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
        records = await read_records(path)
        assert DOCUMENTS * times == decode_documents(records)
        assert [problem in text for text in decode_problems(records)] == ([True] if problem else [])


async def test_data_before_a_corrupt_byte_is_salvaged(tmp_path: Path) -> None:
    """Zlib discards the output of a chunk with damage, but the data before the damage is read."""
    documents = [{"_id": number, "text": f"{number}"} for number in range(20_000)]
    packed = gzip.compress(b"".join(bson.encode(document) for document in documents), 6)
    path = tmp_path / "graph_jobs.bson.gz"
    for at in (len(packed) // 2, len(packed) - 6):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])
        salvaged = decode_documents(await read_records(path))
        assert documents[: len(salvaged) - 2] == salvaged[:-2]
        assert len(salvaged) > 20_000 * (at - 2_000) / len(packed)


@pytest.mark.parametrize("size", [-(2**31), -1, 0, 4, 16 * 1024 * 1024 + 1, 2**31 - 1])
async def test_an_invalid_length_is_reported_with_its_location(tmp_path: Path, size: int) -> None:
    """The rest of the file is not read, and its beginning is kept."""
    before, after = bson.encode({"a": 1}), bson.encode({"b": 2})
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(before + struct.pack("<i", size) + after[4:] + after)
    records = await read_records(path)
    assert [{"a": 1}] == decode_documents(records)
    (problem,) = decode_problems(records)
    assert f"at byte {len(before)}" in problem
    assert f"{size:,} bytes" in problem
    assert struct.pack("<i", size) + after[4:] + after == records[-1].raw
    path.write_bytes(struct.pack("<i", size) + after[4:])
    assert 1 == len(decode_problems(await read_records(path)))


async def test_a_wrong_length_affects_no_earlier_document(tmp_path: Path) -> None:
    """Any wrong length within the limits causes problems after it, and no exception."""
    before, wrong = bson.encode({"a": 1}), bson.encode({"b": "text"})
    path = tmp_path / "graph_jobs.bson"
    for size in range(5, 3 * len(wrong)):
        if size != len(wrong):
            path.write_bytes(before + struct.pack("<i", size) + wrong[4:] + wrong)
            records = await read_records(path)
            assert {"a": 1} == decode_document(records[0])
            assert decode_problems(records)


async def test_an_undecodable_document_affects_no_other(tmp_path: Path) -> None:
    """Its bytes are complete, for the quarantine."""
    good = bson.encode({"a": "ok"})
    bad = good.replace(b"ok", b"\xff\xfe")
    nested = b"\x05\0\0\0\0"
    for _ in range(5_000):
        nested = struct.pack("<i", len(nested) + 8) + b"\x03a\0" + nested + b"\0"
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(good + bad + good + nested + good)
    records = await read_records(path)
    assert [{"a": "ok"}] * 3 == decode_documents(records)
    assert [bad, nested] == [record.raw for record in records if decode_problem(record)]
    assert [2, 4] == [record.location.ordinal for record in records if decode_problem(record)]
    assert decode_problems(records)[1].endswith("BSON must not nest deeper than 500 levels")


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


@pytest.mark.parametrize("layout", ["lines", "array"])
@pytest.mark.parametrize("bad", BAD_TEXTS, ids=[str(number) for number in range(len(BAD_TEXTS))])
async def test_invalid_text_affects_no_other_record(tmp_path: Path, bad: bytes, layout: str) -> None:
    """The problem has the bytes, and its text repeats no value."""
    path = tmp_path / "graph_jobs.json"
    joined = [b'{"a": 1}', bad, b'{"b": 2}']
    path.write_bytes(b"\n".join(joined) if layout == "lines" else b"[" + b",\n".join(joined) + b"]")
    records = await read_records(path)
    assert [{"a": 1}, {"b": 2}] == decode_documents(records)
    problems = decode_problems(records)
    # Outside of objects an array is split at commas, so one text may be two records.
    assert BAD_TEXTS[bad] in problems[0]
    assert bad[:3] == (records[1].raw or b"")[:3]
    assert not [problem for problem in problems if "secret" in problem or len(problem) > 400]


@pytest.mark.parametrize("broken", [b'{"a": "no end', b'{"a": {"b": 1}', b'{"a": "x" "b": "}'])
async def test_an_object_without_an_end_affects_no_other(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(b'[{"a": 1},\n' + broken + b',\n{"b": 2},\n{"c": "\\n{"}]\n')
    records = await read_records(path)
    assert [{"a": 1}, {"b": 2}, {"c": "\n{"}] == decode_documents(records)
    assert 1 == len(decode_problems(records))


async def test_data_after_an_array_is_reported(tmp_path: Path) -> None:
    """It is not read, and not dropped silently."""
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(b'[{"a": 1}]\n{"b": 2}\n')
    records = await read_records(path)
    assert [{"a": 1}] == decode_documents(records)
    assert "more follows the end of the array" in decode_problems(records)[0]
    assert b'{"b": 2}\n' == records[-1].raw


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"x": "%s"}\n{"b": 2}\n',
        b'[{"a": 1},\n{"x": "%s"},\n{"b": 2}]',
        b'[{"a": 1},%s,{"b": 2}]',
        b'{\n"a": 1}\n{"x": "%s"}\n{"b": 2}\n',
    ],
)
async def test_text_too_large_for_a_document_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Its beginning is kept, and reading continues after it."""
    monkeypatch.setattr(json_framing, "JSON_SIZE_MAX", 1024 * 1024)
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(content % (b"y" * 5_000_000))
    records = await read_records(path)
    assert [{"a": 1}, {"b": 2}] == decode_documents(records)
    assert "of more than 1,048,576 bytes" in decode_problems(records)[0]
    for number, record in enumerate(records, start=1):
        rest = await read_records(path, after=record.location.next)
        assert [later.location for later in records[number:]] == [later.location for later in rest]


@given(
    content=st.binary(max_size=80),
    start=st.sampled_from([b"", b"[", b"{\n", b'{"a":1}\n', b"\x05\0\0\0\0", b"\x1f\x8b\x08\0"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_raise(tmp_path: Path, content: bytes, start: bytes) -> None:
    """Every record of any file is a document or a problem with its bytes."""
    for name in ("graph_jobs.bson", "graph_jobs.json.gz"):
        path = tmp_path / name
        path.write_bytes(start + content)
        try:
            whole = await read_records(path)
        except ConfigurationError:  # an archive, or UTF-16
            continue
        for record in whole:
            assert (decode_document(record) is None) == (decode_problem(record) is not None)
