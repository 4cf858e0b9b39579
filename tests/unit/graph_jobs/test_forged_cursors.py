"""Cursors with valid Base64 and invalid content."""

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs import GraphJobQuery, InvalidJob
from graphjobs.core.pagination import PageKey
from tests.builders import AT

_ID = "0" * 32
_PARTS: dict[str, list[Any]] = {
    "a number for a time": [42, _ID],
    "a time before all": ["0001-01-01T00:00:00+14:00", _ID],
    "a time after all": ["9999-12-31T23:59:59-14:00", _ID],
    "no time": ["yesterday", _ID],
    "a number for an id": [AT.isoformat(), 42],
    "no id": [AT.isoformat(), "42"],
    "nulls": [None, None],
    "two parts": [AT.isoformat()],
    "four parts": [AT.isoformat(), _ID, ""],
}


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _rejected_field(cursor: str) -> str:
    with pytest.raises(InvalidJob) as caught:
        GraphJobQuery(cursor=cursor).page_key("acme")
    return caught.value.field


@pytest.mark.parametrize("name", list(_PARTS))
def test_a_forged_cursor_with_a_valid_digest_is_rejected(name: str) -> None:
    """The digest is readable in any cursor, so the other parts are checked too."""
    cursor = GraphJobQuery().cursor_after("acme", PageKey(AT, UUID(int=1)))
    digest, *_ = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    assert "cursor" == _rejected_field(_encoded(json.dumps([digest, *_PARTS[name]]).encode()))


@given(
    st.binary(min_size=1, max_size=150)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_other_encoded_content_is_rejected(content: bytes) -> None:
    assert "cursor" == _rejected_field(_encoded(content))


@given(st.data())
def test_a_truncated_cursor_is_rejected(data: st.DataObject) -> None:
    cursor = GraphJobQuery().cursor_after("acme", PageKey(AT, UUID(int=1)))
    assert "cursor" == _rejected_field(cursor[: data.draw(st.integers(1, len(cursor) - 1))])
