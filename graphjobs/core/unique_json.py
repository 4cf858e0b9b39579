"""JSON objects where each key occurs once. `json` keeps the last of several, and other readers keep the first."""

from typing import Any


class DuplicateKey(ValueError):
    """An object has a key twice.

    Attributes:
        key: the key, any text.
    """

    def __init__(self, key: str) -> None:
        super().__init__("an object has a key twice")
        self.key = key


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of its pairs, for `object_pairs_hook` of `json`.

    Raises:
        DuplicateKey: a key occurs twice.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(key)
            seen.add(key)
    return fields
