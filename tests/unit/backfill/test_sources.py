"""Documents come from dumps of every form, from wherever reading ended, and memory and event loop stay free."""

import asyncio
import gc
import gzip
import math
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
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

STRANGE: dict[str, Any] = as_decoded(
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


def few(count: int = 40) -> list[dict[str, Any]]:
    """Small documents of a generated dump, and a strange one among them."""
    made = [as_decoded(each.document) for each in dumps.DumpGenerator(7, dirty=0).jobs(count)]
    return [*made[: count // 2], STRANGE, *made[count // 2 :]]


@pytest.mark.parametrize("form", dumps.FILE_FORMATS)
async def test_every_form_gives_the_same_documents(tmp_path: Path, form: str) -> None:
    """However a document was dumped, it is the same value, types included, its times naive and in UTC."""
    made = [*few(), {"_id": "x", "tenantId": "acme"}]
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(dumps.encode_file(made, form))
    read = await read_documents(path)
    assert made == read
    strange = read[20]
    assert [Binary, Binary, datetime, datetime, datetime, DatetimeMS, Decimal128] == [
        type(strange[name]) for name in ("_id", "new", "at", "early", "late", "never", "decimal")
    ]
    assert (3, 4) == (strange["_id"].subtype, strange["new"].subtype)


async def test_parts_come_jobs_first_and_events_last(tmp_path: Path) -> None:
    """Events need their jobs, whatever the order of names in the folder; what else is there is left alone."""
    for form, seed in (("bson", 1), ("jsonl.gz", 2)):
        folder = tmp_path / form
        made = dumps.generate(300, seed)
        dumps.write_files(folder, made, form)
        (folder / "graph_jobs.metadata.json").write_text("{}")
        (folder / "users.bson").write_bytes(b"whatever")
        async with open_source(str(folder)) as source:
            assert ["graph_jobs", "policy_runs", "graph_job_events"] == [part.collection for part in source.parts]
            for part in source.parts:
                read = [found async for found in source.read(part)]
                assert all(decode_document(found) is not None for found in read)
                assert sum(each.collection == part.collection for each in made) == len(read)
                assert list(range(1, len(read) + 1)) == [found.location.ordinal for found in read]
                assert part.size_bytes == source.bytes_read(part) == (folder / part.name).stat().st_size


@pytest.mark.parametrize("form", dumps.FILE_FORMATS)
async def test_reading_goes_on_after_every_position(tmp_path: Path, form: str) -> None:
    """What comes after a position is what came after it the first time, exactly."""
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.').removeprefix('pretty.')}"
    path.write_bytes(dumps.encode_file(few(12), form))
    whole = await read_records(path)
    assert comparable(whole) == comparable(await read_records(path, after=ReadOffset()))
    for number, found in enumerate(whole, start=1):
        position = ReadOffset.from_json(found.location.next.to_json())
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
async def test_any_text_is_read_on_after_every_position(
    tmp_path: Path, lines: list[bytes], array: bool, packed: bool, end: bytes
) -> None:
    """Also among problems, and at the end that an array lacks."""
    content = (b"[" + b",\n".join(lines) if array else b"\n".join(lines)) + end
    path = tmp_path / ("graph_jobs.json.gz" if packed else "graph_jobs.json")
    path.write_bytes(gzip.compress(content) if packed else content)
    whole = await read_records(path)
    for number, found in enumerate(whole, start=1):
        assert comparable(whole[number:]) == comparable(await read_records(path, after=found.location.next))
    # No word is lost: whatever is no document is the raw part of a problem.
    assert all(content[each.location.offset :].startswith(each.raw) for each in whole if each.raw)


async def test_byte_order_marks_line_ends_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    """Windows writes them, and people do."""
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


async def test_a_format_is_told_by_the_content(tmp_path: Path) -> None:
    """A name may be wrong: of BSON, of JSON, and of what is compressed."""
    made = few(4)
    for name, form in (("json", "bson"), ("bson", "jsonl"), ("json", "jsonl.gz"), ("bson.gz", "array.json")):
        path = tmp_path / f"graph_jobs.{name}"
        path.write_bytes(dumps.encode_file(made, form))
        assert made == await read_documents(path)
    for size in (0x7B, 0x5B, 0x20):  # a length that begins as JSON does
        document = {"a": "x" * (size - len(bson.encode({"a": ""})))}
        path = tmp_path / "graph_jobs.bson"
        path.write_bytes(bson.encode(document) * 2)
        assert [document, document] == await read_documents(path)


@pytest.mark.parametrize("form", ["bson", "bson.gz", "jsonl", "array.json"])
async def test_documents_of_sixteen_megabytes_take_bounded_memory(tmp_path: Path, form: str) -> None:
    """Four of them in a row take hardly more than one, read ahead included."""
    huge = dumps.DumpGenerator(1).huge().document
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.')}"
    path.write_bytes(dumps.encode_file([huge] * 4, form))
    assert dumps.HUGE_SIZE == len(bson.encode(huge))
    del huge
    gc.collect()
    tracemalloc.start()
    try:
        sizes = []
        async with open_source(str(path)) as source, aclosing(source.read(source.parts[0])) as reading:
            async for found in reading:
                document = decode_document(found)
                assert document is not None
                sizes.append(len(document["padding"]))
                del found
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 == len(sizes)
    assert peak < 150 * 1024 * 1024


@pytest.mark.parametrize("form", ["bson", "jsonl", "array.json", "array.json.gz"])
async def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    """Of 30 MB hardly any is held."""
    path = tmp_path / f"graph_jobs.{form.removeprefix('array.')}"
    path.write_bytes(dumps.encode_file([{"text": "x" * 10_000}] * 3_000, form))
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


async def test_the_event_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    """Another task keeps its turns while documents are read and nothing is done with them."""
    path = tmp_path / "graph_jobs.json"
    path.write_bytes(dumps.encode_file(few(20_000), "array.json"))
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
    # Of the median, for this machine may be busy with something else.
    assert sorted(waits)[len(waits) // 2] < 0.02


async def test_who_does_not_read_on_makes_nothing_be_read(tmp_path: Path) -> None:
    """No more is read ahead than two batches."""
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(dumps.encode_file([{"text": "x" * 1_000}] * 20_000, "bson"))
    async with open_source(str(path)) as source, aclosing(source.read(source.parts[0])) as reading:
        await anext(reading)
        await asyncio.sleep(0.1)
        assert source.bytes_read(source.parts[0]) <= 3 * files.BATCH_SIZE_MAX


def open_files() -> int:
    """Counts what this process holds open."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # one of them is its own


async def test_files_are_closed_whatever_ends_the_reading(tmp_path: Path) -> None:
    """The end, an early end, a cancel, and a cancel upon a cancel."""
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
    for _ in range(100):  # a file that was just being opened is closed by the thread that opened it
        gc.collect()
        if before == open_files():
            break
        await asyncio.sleep(0.02)
    assert before == open_files()


async def test_a_fingerprint_tells_another_file(tmp_path: Path) -> None:
    """The same file has the same; one that was written anew, if only a byte in its middle, has another."""

    async def fingerprint() -> str:
        async with open_source(str(path)) as source:
            return source.parts[0].fingerprint

    path = tmp_path / "graph_jobs.bson"
    content = dumps.encode_file(few(), "bson")
    path.write_bytes(content)
    first = await fingerprint()
    assert first == await fingerprint()
    dumps.flip_byte(path, len(content) // 2)
    os.utime(path, ns=(1, 1))
    assert first != await fingerprint()


def nothing(folder: Path) -> Path:
    """No file at all."""
    return folder / "absent"


def empty(folder: Path) -> Path:
    """A folder without dumps."""
    return folder


def named_otherwise(folder: Path) -> Path:
    """A dump named after no collection."""
    path = folder / "users.bson"
    path.write_bytes(b"")
    return path


def twice(folder: Path) -> Path:
    """Two dumps of one collection."""
    for name in ("graph_jobs.bson", "graph_jobs.json.gz"):
        (folder / name).write_bytes(b"")
    return folder


def one_up(folder: Path) -> Path:
    """The folder that mongodump made, and not the database's within."""
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "graph_jobs.bson").write_bytes(b"")
    return folder


def pipe(folder: Path) -> Path:
    """A pipe under the name of a dump."""
    os.mkfifo(folder / "graph_jobs.bson")
    return folder / "graph_jobs.bson"


def archive(folder: Path) -> Path:
    """What mongodump --archive writes."""
    (folder / "graph_jobs.bson").write_bytes(b"\x6d\xe2\x99\x81" + b"\0" * 100)
    return folder


def utf_16(folder: Path) -> Path:
    """What PowerShell writes."""
    (folder / "graph_jobs.json").write_bytes('{"a": 1}'.encode("utf-16"))
    return folder


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (nothing, ["no file or folder", "absent"]),
        (empty, ["holds no dump", "graph_jobs.bson"]),
        (named_otherwise, ["users.bson", "named after its collection"]),
        (twice, ["graph_jobs.bson", "graph_jobs.json.gz", "two files"]),
        (one_up, ["holds no dump", "scheduler"]),
        (pipe, ["not a regular file"]),
        (archive, ["archive of mongodump"]),
        (utf_16, ["UTF-16"]),
    ],
)
async def test_what_is_no_source_is_refused_in_a_sentence(
    tmp_path: Path, build: Callable[[Path], Path], words: list[str]
) -> None:
    """It names what is there, and what should be."""
    with pytest.raises(ConfigurationError) as caught:
        await read_records(build(tmp_path))
    assert [] == [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize("place", ["http://host/file", "postgresql://u:secret@h/db", "a\0b", ""])
async def test_what_is_no_path_is_refused(place: str) -> None:
    """And a password that it may hold is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        await read_records(place)
    assert "secret" not in str(caught.value)


async def test_a_position_past_the_end_is_refused(tmp_path: Path) -> None:
    """The file cannot be the one it was."""
    path = tmp_path / "graph_jobs.bson"
    path.write_bytes(dumps.encode_file([{"a": 1}], "bson"))
    with pytest.raises(ConfigurationError, match="ends before the position"):
        await read_records(path, after=ReadOffset(7, 1_000))
    assert [] == await read_records(path, after=ReadOffset(1, END_OFFSET))


async def test_without_pymongo_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And these rooms are imported without it."""
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'graphjobs\[mongo\]'"):
        await read_records(tmp_path)


def test_a_position_is_read_from_its_own_text_only() -> None:
    """Any `_id` survives; other text is refused."""
    for key in (None, "x", ObjectId(), Binary(bytes(16), 3), 7, {"a": 1}):
        position = ReadOffset(3, 4, key)
        assert position == ReadOffset.from_json(position.to_json())
    for text in ("", "{}", "[1]", "[1, 2, 3, 4]", '["a", 1, null]', "[" * 10_000):
        with pytest.raises(ValueError, match="not a position"):
            ReadOffset.from_json(text)


def test_what_is_found_is_frozen() -> None:
    """Nobody changes what another may still hold."""
    found = SourceRecord("graph_jobs", None, "bson", b"")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        found.raw = b"x"  # type: ignore[misc]
