"""Cancels a piece of work at its n-th suspension, in its own task or in any task it starts."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from typing_extensions import override

_TURNS_MAX: Final = 10_000


class Cancel(Enum):
    """How the cancel comes."""

    ONCE = "once, when the work suspends"
    TWICE = "twice, a turn of the loop apart"
    EACH_TURN = "at each turn of the loop until the work ends, as anyio does"
    WITH_THE_ANSWER = "when what is waited for is there, and the work has not yet seen it"


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine as it is, that tells each time it gives the loop a turn, and what it waits for."""

    def __init__(self, work: Coroutine[Any, Any, Any], suspended: Callable[[Any], None]) -> None:
        self._work, self._suspended = work, suspended

    @override
    def send(self, value: Any) -> Any:
        return self._told(self._work.send(value))

    @override
    def throw(self, *error: Any) -> Any:
        return self._told(self._work.throw(*error))

    @override
    def close(self) -> None:
        self._work.close()

    @override
    def __await__(self) -> Any:
        return self._work.__await__()

    def _told(self, waited_for: Any) -> Any:
        self._suspended(waited_for)
        return waited_for


_within = 0
_watched: ContextVar[Callable[[Any], None] | None] = ContextVar("_watched", default=None)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    """Makes tasks as the loop does; those that watched work starts are counted with it."""
    suspended = _watched.get()
    return asyncio.Task(work if suspended is None else _Counted(work, suspended), loop=loop, **options)


@contextmanager
def _tasks_counted(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Has the loop make its tasks with us, as long as anybody is within."""
    global _within
    _within += 1
    loop.set_task_factory(_make_task)
    try:
        yield
    finally:
        _within -= 1
        if not _within:
            loop.set_task_factory(None)


async def cancelled_at(n: int, work: Coroutine[Any, Any, Any], how: Cancel) -> tuple[bool, Any]:
    """Runs work and cancels it at its n-th suspension, counted from 0.

    Returns:
        Whether there was an n-th suspension; and "cancelled", or the error it ended with, or its result.
    """
    loop = asyncio.get_running_loop()
    count = 0

    def suspended(waited_for: Any) -> None:
        nonlocal count
        count += 1
        if count != n + 1:
            return
        if how is Cancel.WITH_THE_ANSWER and waited_for is not None:
            # Before the task's own call-back, so that the answer is there when the cancel comes.
            waited_for.add_done_callback(lambda _: task.cancel())
            return
        task.cancel()
        if how is not Cancel.ONCE:
            loop.call_soon(again, 1 if how is Cancel.TWICE else _TURNS_MAX)

    def again(turns: int) -> None:
        if turns and not task.done():
            task.cancel()
            loop.call_soon(again, turns - 1)

    with _tasks_counted(loop):
        token = _watched.set(suspended)
        task = loop.create_task(work)
        _watched.reset(token)
        await asyncio.wait([task])
    return count > n, "cancelled" if task.cancelled() else task.exception() or task.result()
