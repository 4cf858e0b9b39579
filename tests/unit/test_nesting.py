"""The limits of nesting in JSON and BSON are constants, equal on every Python version."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from hypothesis import given, settings
from hypothesis import strategies as st

from graphjobs import ConfigurationError, InvalidJob
from graphjobs.backfill.extract.decoding import decoder, nests_deeper, parse_extended_json
from graphjobs.backfill.extract.records import ReadOffset
from graphjobs.backfill.quarantine.entries import is_unedited
from graphjobs.backfill.transform.coercion import parse_json_object
from graphjobs.core.json_values import DECODED_DEPTH_MAX, VALUE_DEPTH_MAX, read_json
from graphjobs.core.json_values import nests_deeper as json_nests_deeper
from graphjobs.policy_runs.models import PolicyRunInputs
from graphjobs.web.tokens import TokenFile, add_token

_BOTH = pytest.mark.parametrize(("opens", "closes"), [('{"a":', "}"), ("[", "]")], ids=["objects", "lists"])


def _text(opens: str, closes: str, levels: int) -> str:
    """Return the text of an object with so many levels, including itself."""
    return '{"in":' + opens * (levels - 1) + "1" + closes * (levels - 1) + "}"


def _bson(text: str) -> bytes:
    return bson.encode(json.loads(text))


@_BOTH
@pytest.mark.parametrize("encoding", ["bson", "json"])
def test_a_document_may_nest_500_levels(encoding: str, opens: str, closes: str) -> None:
    """For BSON and JSON, documents and lists. One more level raises with the limit."""
    decode: Callable[[str], Any] = (
        (lambda text: decoder("bson")(_bson(text)))
        if encoding == "bson"
        else (lambda text: decoder("json")(text.encode()))
    )
    deepest = _text(opens, closes, 500)
    assert json.loads(deepest) == decode(deepest)
    assert f"{encoding.upper()} must not nest deeper than 500 levels" == decode(_text(opens, closes, 501))


def test_a_far_too_deep_document_has_the_same_error() -> None:
    """The decoder is not called: it would fail at its own limit, or crash the process."""
    sizes = range(5 + 8 * 100_000, 5, -8)
    deep = b"".join(size.to_bytes(4, "little") + b"\x03a\0" for size in sizes) + b"\5\0\0\0" + b"\0" * 100_001
    assert len(deep) == sizes[0]
    assert "BSON must not nest deeper than 500 levels" == decoder("bson")(deep)
    for text in (b'{"a":' * 1_000_000, b"[" * 1_000_000, b'{"a": "}", "b":' * 100_000):
        assert "JSON must not nest deeper than 500 levels" == decoder("json")(text)


@_BOTH
def test_every_parser_has_the_limit(tmp_path: Path, opens: str, closes: str) -> None:
    """A checkpoint, Extended JSON, JSON text in a field, a quarantine line, and the token file."""
    deepest, over = _text(opens, closes, DECODED_DEPTH_MAX), _text(opens, closes, DECODED_DEPTH_MAX + 1)
    assert json.loads(deepest) == parse_extended_json(deepest) == parse_json_object(deepest)
    assert parse_json_object(over) is None
    with pytest.raises(ValueError, match=r"^JSON must not nest deeper than 500 levels$"):
        parse_extended_json(over)
    with pytest.raises(ValueError, match="not a position"):
        ReadOffset.from_json(f"[1, 2, {over}]")
    tag = '{"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}'
    assert is_unedited(f'{{"_quarantine": {tag}}}')
    assert not is_unedited(f'{{"_quarantine": {{"in": {over}, {tag[1:]}}}')
    path = tmp_path / "tokens"
    add_token(path, tenant_id="acme", scopes=["graph:read"], name="a")
    line = path.read_text().rstrip()
    for value in (deepest, over):
        path.write_text(f'{line[:-1]}, "name": {value}}}\n')
        with pytest.raises(ConfigurationError, match="line 1 of the token file"):
            TokenFile(path)


@_BOTH
def test_a_value_of_more_than_200_levels_raises_with_the_limit(opens: str, closes: str) -> None:
    """Below 200 levels the field's own limit applies. The parser of pydantic also ends at 200."""
    inner = VALUE_DEPTH_MAX - 1
    with pytest.raises(InvalidJob, match="JSON must nest at most 32 levels") as field_error:
        PolicyRunInputs.from_json(f'{{"environment": {_text(opens, closes, inner)}}}')
    assert "environment" == field_error.value.field
    with pytest.raises(InvalidJob) as value_error:
        PolicyRunInputs.from_json(f'{{"environment": {_text(opens, closes, inner + 1)}}}')
    sentence = "JSON must not nest deeper than 200 levels"
    assert ("", (("", sentence),)) == (value_error.value.field, value_error.value.problems)
    assert f"PolicyRunInputs: {sentence}" == str(value_error.value)
    assert json.loads(_text(opens, closes, inner)) == read_json(_text(opens, closes, inner))
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        read_json(_text(opens, closes, 250))


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ('{"a": "[[[[{{{{"}', 1),
        ('{"[{": ["\\"[[", "\\\\", [1]]}', 3),
        ('{"a\\\\\\"[[[": [1, "]]]]", [[2]]]}', 4),
        ('[1, [2], [[3]], "]]]"]', 3),
        ('["\ud800[", [[]]]', 3),
        ("1", 0),
        ('"[[["', 0),
        ("[[[", 3),
        ('[["no end [[[', 2),
        ('[["no end [[[\\', 2),
        ("]]]{", 0),
    ],
)
def test_brackets_in_strings_are_not_levels(text: str, levels: int) -> None:
    """This includes escaped quotation marks. Incomplete text counts up to its end."""
    assert [True] * levels + [False] * 5 == [json_nests_deeper(text, limit) for limit in range(levels + 5)]


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(Binary, st.binary(max_size=20), st.sampled_from([0, 2, 4, 5, 128])),
    st.datetimes(),
    st.builds(Regex, st.sampled_from(["", "a.*", "[{"]), st.sampled_from(["", "im"])),
    st.sampled_from(
        [
            ObjectId(b"\x03\x04\x0f" * 4),
            Int64(3),
            Decimal128("1.5"),
            Timestamp(3, 4),
            MinKey(),
            MaxKey(),
            Code("{[\x03"),
        ]
    ),
)
_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
_NESTS = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_KEYS, inner, max_size=4),
        st.builds(Code, st.text(max_size=5), st.dictionaries(_KEYS, inner, max_size=2)),
        st.builds(DBRef, st.sampled_from(["a", "[{"]), inner),
    ),
    max_leaves=30,
)


def _depth(value: Any) -> int:
    match value:
        case Mapping():
            return 1 + max(map(_depth, value.values()), default=0)
        case list():
            return 1 + max(map(_depth, value), default=0)
        case DBRef():
            return _depth(value.as_doc())
        case Code() if value.scope is not None:
            return _depth(value.scope)
    return 0


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_KEYS, _NESTS, max_size=5), st.sampled_from([1, 2, 60]))
def test_levels_of_bson_are_counted_exactly(document: dict[str, Any], within: int) -> None:
    """Values of all types, also with bytes that look like nesting."""
    for _ in range(within):
        document = {"in": document, "list": [1, [b"\x03\0"]]}
    raw, levels = bson.encode(document), _depth(document)
    assert [True, False] == [nests_deeper("bson", raw, limit) for limit in (levels - 1, levels)]


@settings(max_examples=300, deadline=None)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_levels_of_json_are_counted_exactly(value: Any) -> None:
    """Strings may hold anything."""
    levels = _depth(value)
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert [levels > 0, False] == [json_nests_deeper(text, limit) for limit in (max(levels - 1, 0), levels)]


@given(st.binary(max_size=60), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise(junk: bytes, at: int) -> None:
    """Invalid BSON and JSON have a result, too."""
    whole = bson.encode({"a": [{"b": [{"c": Code("x", {"d": Regex("x")})}]}], "e": DBRef("x", 1), "f": "text"})
    for raw in (junk, whole[:at] + junk, whole[:at] + junk + whole[at + len(junk) :]):
        for limit in (0, 1, 3):
            assert nests_deeper("bson", raw, limit) in (True, False)
            assert nests_deeper("json", raw, limit) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        b"[]" * 300 + b'"' + b"x" * 3_000_000,
        b"[]" * 300 + b'"' + b"\\" * 3_000_001,
        b"[]" * 300 + b" " * 3_000_000,
        b"[]" * 300 + b'"a"' * 1_000_000,
        b"[]" * 1_500_000,
        b'{"a":"\\"}"},' * 250_000,
    ],
)
def test_counting_takes_linear_time(text: bytes) -> None:
    """3 MB take less than 10 seconds, also as invalid JSON without an end."""
    before = time.process_time()
    assert not json_nests_deeper(text, 500)
    assert time.process_time() - before < 10


def test_the_limits_are_below_those_of_the_decoders_of_this_python() -> None:
    """This holds also if other frames use much of the stack."""
    text = _text('{"a":', "}", DECODED_DEPTH_MAX)

    def within(frames: int) -> Any:
        return within(frames - 1) if frames else (decoder("json")(text.encode()), decoder("bson")(_bson(text)))

    assert sys.getrecursionlimit() >= 2 * DECODED_DEPTH_MAX
    first, second = within(200)
    assert first == second == json.loads(text)
