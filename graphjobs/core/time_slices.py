"""Iterate over many values on the event loop without holding up its other tasks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

SLICE_SECONDS: Final = 0.01
"""The time after which other tasks run. A page of 8 MiB takes up to seconds to read and to write as JSON."""

T = TypeVar("T")


async def in_slices(values: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over values; the other tasks of the event loop run after each 10 ms of work."""
    began = time.monotonic()
    for value in values:
        yield value
        if time.monotonic() - began > SLICE_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()
