"""Reading dumps of every format from any position, with bounded memory and a free event loop."""

import asyncio
import gc
import gzip
import math
import os
import sys
import time
import tracemalloc
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs import ConfigurationError
from graphjobs.backfill.extract import files
from graphjobs.backfill.extract.records import END_OFFSET, ReadOffset, SourceRecord
from graphjobs.backfill.extract.sources import open_source
from tests.backfill import dumps
from tests.backfill.source_helpers import as_decoded, comparable, decode_document, read_documents, read_records

UNUSUAL: dict[str, Any] = as_decoded(
    {
        "_id": Binary(bytes(range(16)), 3),
        "new": Binary(bytes(range(16)), 4),
        "at": datetime(2026, 1, 2, 3, 4, 5, 289000, tzinfo=UTC),
        "early": datetime(1, 1, 1, tzinfo=UTC),
        "late": datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        "never": DatetimeMS(2**60),
        "big": Int64(2**63 - 1),
        "decimal": Decimal128("0.1000"),
        "text": 'é "{[,]}" \\ \0 \U0001f600',
        "bytes": b"\0\xff",
        "nested": [{"a": []}, {"b": {}}, [[{"c": "}"}]]],
        "oid": ObjectId("0123456789abcdef01234567"),
        "infinite": -math.inf,
    }
)


def few_documents(count: int = 40) -> list[dict[str, Any]]:
    """Return small documents of a generated dump, with an unusual one in the middle."""
    documents = [as_decoded(job.document) for job in dumps.DumpGenerator(7, dirty=0).jobs(count)]
    return [*documents[: count // 2], UNUSUAL, *documents[count // 2 :]]


@pytest.mark.parametrize("file_format", dumps.FILE_FORMATS)
async def test_every_format_yields_the_same_documents(tmp_path: Path, file_format: str) -> None:
    """The values have the same types in every format. Times are naive and in UTC."""
    documents = [*few_documents(), {"_id": "x", "tenantId": "acme"}]
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(dumps.encode_file(documents, file_format))
    decoded = await read_documents(path)
    assert documents == decoded
    unusual = decoded[20]
    assert [Binary, Binary, datetime, datetime, datetime, DatetimeMS, Decimal128] == [
        type(unusual[name]) for name in ("_id", "new", "at", "early", "late", "never", "decimal")
    ]
    assert (3, 4) == (unusual["_id"].subtype, unusual["new"].subtype)


async def test_parts_are_ordered_jobs_first_and_events_last(tmp_path: Path) -> None:
    """Events need their jobs. Other files of the folder are ignored."""
    for file_format, seed in (("bson", 1), ("jsonl.gz", 2)):
        folder = tmp_path / file_format
        generated = dumps.generate(300, seed)
        dumps.write_files(folder, generated, file_format)
        (folder / "graph_jobs.metadata.json").write_text("{}")
        (folder / "users.bson").write_bytes(b"whatever")
        async with open_source(str(folder)) as source:
            assert ["graph_jobs", "policy_runs", "graph_job_events"] == [part.collection for part in source.parts]
            for part in source.parts:
                records = [record async for record in source.read(part)]
                assert all(decode_document(record) is not None for record in records)
                assert sum(document.collection == part.collection for document in generated) == len(records)
                assert list(range(1, len(records) + 1)) == [record.location.ordinal for record in records]
                assert part.size_bytes == source.bytes_read(part) == (folder / part.name).stat().st_size


@pytest.mark.parametrize("file_format", dumps.FILE_FORMATS)
async def test_reading_continues_after_every_position(tmp_path: Path, file_format: str) -> None:
    """The records after a position are exactly those of the first read."""
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(dumps.encode_file(few_documents(12), file_format))
    whole = await read_records(path)
    assert comparable(whole) == comparable(await read_records(path, after=ReadOffset()))
    for number, record in enumerate(whole, start=1):
        position = ReadOffset.from_json(record.location.next.to_json())
        assert comparable(whole[number:]) == comparable(await read_records(path, after=position))


LINES = st.lists(
    st.sampled_from(
        [
            b'{"a": 1}',
            b'{"b": "}{"}',
            b"",
            b"  ",
            b"[1]",
            b"nonsense",
            b'{"a": ',
            b"\xff",
            b'{"$oid": 1}',
            b'{"s": "\\"',
        ]
    ),
    max_size=8,
)


@given(lines=LINES, array=st.booleans(), packed=st.booleans(), end=st.sampled_from([b"", b"\n", b"]", b"]\n", b"] x"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_text_is_read_after_every_position(
    tmp_path: Path, lines: list[bytes], array: bool, packed: bool, end: bytes
) -> None:
    """This includes invalid records, and arrays without an end."""
    content = (b"[" + b",\n".join(lines) if array else b"\n".join(lines)) + end
    path = tmp_path / ("graph_jobs.json.gz" if packed else "graph_jobs.json")
    path.write_bytes(gzip.compress(content) if packed else content)
    whole = await read_records(path)
    for number, record in enumerate(whole, start=1):
        assert comparable(whole[number:]) == comparable(await read_records(path, after=record.location.next))
    # No byte is lost: bytes that are not a document are the raw part of a problem.
    assert all(content[record.location.offset :].startswith(record.raw) for record in whole if record.raw)


async def test_byte_order_marks_line_ends_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    """Windows and people write them."""
    path = tmp_path / "graph_jobs.json"
    expected = [{"a": 1}, {"b": 2}]
    for content in (
        b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}\r\n',
        b'\xef\xbb\xbf \r\n[\r\n{"a": 1}\r\n,\r\n{"b": 2}\r\n]\r\n\r\n',
        b'\xef\xbb\xbf{\r\n"a": 1\r\n}\r\n{\r\n"b": 2\r\n}',
        b'\n\n[{"a":1},{"b":2}]',
        b'{"a":1}\n{"b":2}',
    ):
        path.write_bytes(content)
        assert expected == await read_documents(path)
    for content in (b"", b"\n\n", b"[]", b"[ \n]\n", b"\xef\xbb\xbf"):
        path.write_bytes(content)
        assert [] == await read_documents(path)


async def test_the_content_decides_the_format(tmp_path: Path) -> None:
    """A file name may be wrong, for BSON, JSON and compressed files."""
    documents = few_documents(4)
    for name, file_format in (("json", "bson"), ("bson", "jsonl"), ("json", "jsonl.gz"), ("bson.gz", "array.json")):
        path = tmp_path / f"graph_jobs.{name}"
        path.write_bytes(dumps.encode_file(documents, file_format))
        assert documents == await read_documents(path)
    for size in (0x7B, 0x5B, 0x20):  # the length begins with the same byte as JSON
        document = {"a": "x" * (size - len(bson.encode({"a": ""})))}
        path = tmp_path / "graph_jobs.bson"
        path.write_bytes(bson.encode(document) * 2)
        assert [document, document] == await read_documents(path)


@pytest.mark.parametrize("file_format", ["bson", "bson.gz", "jsonl", "array.json"])
async def test_documents_of_sixteen_megabytes_take_bounded_memory(tmp_path: Path, file_format: str) -> None:
    """Four documents in a row take hardly more memory than one, including those read ahead."""
    huge = dumps.DumpGenerator(1).huge().document
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.')}"
    path.write_bytes(dumps.encode_file([huge] * 4, file_format))
    assert dumps.HUGE_SIZE == len(bson.encode(huge))
    del huge
    gc.collect()
    tracemalloc.start()
    try:
        sizes = []
        async with open_source(str(path)) as source, aclosing(source.read(source.parts[0])) as reading:
            async for record in reading:
                document = decode_document(record)
                assert document is not None
                sizes.append(len(document["padding"]))
                del record
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 == len(sizes)
    assert peak < 150 * 1024 * 1024


@pytest.mark.parametrize("file_format", ["bson", "jsonl", "array.json", "array.json.gz"])
async def test_memory_does_not_grow_with_the_file(tmp_path: Path, file_format: str) -> None:
    """A file of 30 MB is read with less than 8 MB."""
    path = tmp_path / f"graph_jobs.{file_format.removeprefix('array.')}"
    path.write_bytes(dumps.encode_file([{"text": "x" * 10_000}] * 3_000, file_format))
    tracemalloc.start()
    try:
        async with open_source(str(path)) as source:
            count = 0
            async for _ in source.read(source.parts[0]):
                count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 3_000 == count
    assert peak < 8 * 1024 * 1024


async def test_the_event_loop_continues_during_a_read(tmp_path: Path) -> None:
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(dumps.encode_file(few_documents(20_000), "array.json"))
    waits: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            waits.append(time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    assert 20_001 <= len(await read_records(path))
    ticking.cancel()
    assert len(waits) > 20
    # The median, because the machine may be busy.
    assert sorted(waits)[len(waits) // 2] < 0.02


async def test_at_most_two_batches_are_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(dumps.encode_file([{"text": "x" * 1_000}] * 20_000, "bson"))
    async with open_source(str(path)) as source, aclosing(source.read(source.parts[0])) as reading:
        await anext(reading)
        await asyncio.sleep(0.1)
        assert source.bytes_read(source.parts[0]) <= 3 * files.BATCH_SIZE_MAX


def open_files() -> int:
    """Count the open files of this process."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # one of them is its own


async def test_files_are_closed_after_any_read(tmp_path: Path) -> None:
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(dumps.encode_file([{"text": "x" * 1_000}] * 5_000, "bson"))
    before = open_files()
    assert 5_000 == len(await read_records(path))
    async with open_source(str(path)) as source, aclosing(source.read(source.parts[0])) as reading:
        await anext(reading)
    assert before == open_files()
    for cancels in (1, 2):
        for turns in range(12):
            task = asyncio.create_task(read_records(path))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
    for _ in range(100):  # a thread closes the file that it is just opening
        gc.collect()
        if before == open_files():
            break
        await asyncio.sleep(0.02)
    assert before == open_files()


async def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:

    async def fingerprint() -> str:
        async with open_source(str(path)) as source:
            return source.parts[0].fingerprint

    path = tmp_path / "graph_jobs.bson"
    content = dumps.encode_file(few_documents(), "bson")
    path.write_bytes(content)
    first = await fingerprint()
    assert first == await fingerprint()
    dumps.flip_byte(path, len(content) // 2)
    os.utime(path, ns=(1, 1))
    assert first != await fingerprint()


@pytest.mark.parametrize(
    ("contents", "name", "words"),
    [
        ({}, "absent", ["no file or folder", "absent"]),
        ({}, "", ["holds no dump", "graph_jobs.bson"]),
        ({"users.bson": b""}, "users.bson", ["users.bson", "named after its collection"]),
        (
            {"graph_jobs.bson": b"", "graph_jobs.json.gz": b""},
            "",
            ["graph_jobs.bson", "graph_jobs.json.gz", "two files"],
        ),
        ({"scheduler/graph_jobs.bson": b""}, "", ["holds no dump", "scheduler"]),
        ({"graph_jobs.bson": None}, "graph_jobs.bson", ["not a regular file"]),
        ({"graph_jobs.bson": b"\x6d\xe2\x99\x81" + b"\0" * 100}, "", ["archive of mongodump"]),
        ({"graph_jobs.json": '{"a": 1}'.encode("utf-16")}, "", ["UTF-16"]),
    ],
    ids=["absent", "empty", "other name", "twice", "nested", "pipe", "archive", "UTF-16"],
)
async def test_an_invalid_source_raises_with_a_hint(
    tmp_path: Path, contents: dict[str, bytes | None], name: str, words: list[str]
) -> None:
    for file_name, content in contents.items():
        path = tmp_path / file_name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        await read_records(tmp_path / name)
    assert [] == [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize("path", ["http://host/file", "postgresql://u:secret@h/db", "a\0b", ""])
async def test_an_invalid_path_raises(path: str) -> None:
    """The error does not repeat a password of the path."""
    with pytest.raises(ConfigurationError) as caught:
        await read_records(path)
    assert "secret" not in str(caught.value)


async def test_a_position_past_the_end_raises(tmp_path: Path) -> None:
    """The file is another one."""
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(dumps.encode_file([{"a": 1}], "bson"))
    with pytest.raises(ConfigurationError, match="ends before the position"):
        await read_records(path, after=ReadOffset(7, 1_000))
    assert [] == await read_records(path, after=ReadOffset(1, END_OFFSET))


async def test_without_pymongo_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The modules are importable without pymongo."""
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'graphjobs\[mongo\]'"):
        await read_records(tmp_path)


def test_a_position_is_parsed_from_its_own_text_only() -> None:
    """Any `_id` is restored. Other text raises."""
    for key in (None, "x", ObjectId(), Binary(bytes(16), 3), 7, {"a": 1}):
        position = ReadOffset(3, 4, key)
        assert position == ReadOffset.from_json(position.to_json())
    for text in ("", "{}", "[1]", "[1, 2, 3, 4]", '["a", 1, null]', "[" * 10_000):
        with pytest.raises(ValueError, match="not a position"):
            ReadOffset.from_json(text)


def test_records_are_frozen() -> None:
    """A record may have several users."""
    record = SourceRecord("graph_jobs", None, "bson", b"")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        record.raw = b"x"  # type: ignore[misc]
