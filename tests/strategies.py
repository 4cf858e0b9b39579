"""Hypothesis strategies that several test modules share."""

from typing import Any

from hypothesis import strategies as st


def json_values(keys: st.SearchStrategy[str], *, text_size_max: int, items_max: int) -> st.SearchStrategy[Any]:
    """Return a strategy for any JSON that the database stores."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63) + 1, 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=text_size_max),
        lambda inner: st.lists(inner, max_size=items_max) | st.dictionaries(keys, inner, max_size=items_max),
        max_leaves=12,
    )
