"""Cancel a coroutine at its n-th suspension, in its own task or in any task it starts."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from typing_extensions import override

_TURNS_MAX: Final = 10_000


class Cancel(Enum):
    """When and how often a task is cancelled."""

    ONCE = "once, when the work suspends"
    TWICE = "twice, in two iterations of the event loop"
    EACH_TURN = "at each iteration of the event loop until the work ends, as anyio does"
    WITH_THE_ANSWER = "when the awaited result is there, before the work resumes"


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that reports each suspension and the awaited future."""

    def __init__(self, work: Coroutine[Any, Any, Any], suspended: Callable[[Any], None]) -> None:
        self._work, self._suspended = work, suspended

    @override
    def send(self, value: Any) -> Any:
        return self._report(self._work.send(value))

    @override
    def throw(self, *error: Any) -> Any:
        return self._report(self._work.throw(*error))

    @override
    def close(self) -> None:
        self._work.close()

    @override
    def __await__(self) -> Any:
        return self._work.__await__()

    def _report(self, waited_for: Any) -> Any:
        self._suspended(waited_for)
        return waited_for


_active_count = 0
_watched: ContextVar[Callable[[Any], None] | None] = ContextVar("_watched", default=None)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    """Create a task like the event loop does; count the suspensions of tasks that watched work starts."""
    suspended = _watched.get()
    return asyncio.Task(work if suspended is None else _Counted(work, suspended), loop=loop, **options)


@contextmanager
def _counting_tasks(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Install the task factory, as long as any caller is in this context."""
    global _active_count
    _active_count += 1
    loop.set_task_factory(_make_task)
    try:
        yield
    finally:
        _active_count -= 1
        if not _active_count:
            loop.set_task_factory(None)


async def cancelled_at(n: int, work: Coroutine[Any, Any, Any], how: Cancel) -> tuple[bool, Any]:
    """Run work and cancel it at its n-th suspension, counted from 0.

    Returns:
        Whether there was an n-th suspension; and "cancelled", or the error or the result of the work.
    """
    loop = asyncio.get_running_loop()
    count = 0

    def suspended(waited_for: Any) -> None:
        nonlocal count
        count += 1
        if count != n + 1:
            return
        if how is Cancel.WITH_THE_ANSWER and waited_for is not None:
            # Added before the task's own callback, so that the result is there when the task is cancelled.
            waited_for.add_done_callback(lambda _: task.cancel())
            return
        task.cancel()
        if how is not Cancel.ONCE:
            loop.call_soon(again, 1 if how is Cancel.TWICE else _TURNS_MAX)

    def again(turns: int) -> None:
        if turns and not task.done():
            task.cancel()
            loop.call_soon(again, turns - 1)

    with _counting_tasks(loop):
        token = _watched.set(suspended)
        task = loop.create_task(work)
        _watched.reset(token)
        await asyncio.wait([task])
    return count > n, "cancelled" if task.cancelled() else task.exception() or task.result()


async def cancelled_at_each_await(
    begin: Callable[[], Awaitable[Coroutine[Any, Any, None]]],
    how: Cancel,
    check: Callable[[bool], Awaitable[None]],
) -> int:
    """Run work once per suspension, cancelled there, and once without cancellation; return the number of runs.

    Args:
        begin: makes the work of the next run.
        how: when and how often the work is cancelled.
        check: asserts the state after each run; its argument is whether the work was cancelled.
    """
    runs = 0
    is_cancelled = True
    while is_cancelled:
        is_cancelled, end = await cancelled_at(runs, await begin(), how)
        assert ("cancelled" if is_cancelled else None) == end
        await check(is_cancelled)
        runs += 1
    return runs


async def cancel_twice(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel now, and again in the next iteration of the event loop."""
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
