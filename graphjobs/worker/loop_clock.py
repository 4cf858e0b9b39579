"""A clock of the event loop that leaves out the time in which the loop stood still."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_TICK_SECONDS: Final = 0.1
_STEP_MAX_SECONDS: Final = 0.2
"""The most time that counts between two ticks: in the rest of a longer one, no handler could run."""


@dataclass(slots=True)
class LoopClock:
    """Counts the time in which the handlers of an event loop could run.

    One handler that blocks the loop would otherwise use up the time of all others. While the clock ticks, no more than
    0.2 seconds count between two ticks, which are 0.1 seconds apart.

    Attributes:
        is_needed: whether the clock is to tick on.
    """

    is_needed: Callable[[], bool]
    _counted: float = 0.0
    _ticked_at: float = 0.0
    _timer: "asyncio.TimerHandle | None" = None

    def start(self) -> None:
        """Begin to tick, unless the clock ticks already."""
        if self._timer is None:
            self._tick()

    def time(self) -> float:
        """Return the seconds that count. Only differences between two calls have a meaning."""
        elapsed = asyncio.get_running_loop().time() - self._ticked_at
        return self._counted + (elapsed if self._timer is None else min(elapsed, _STEP_MAX_SECONDS))

    def call_at(self, time: float, callback: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        """Call a function at a time of this clock, or earlier if the loop stands still before: check the time then."""
        return asyncio.get_running_loop().call_later(time - self.time(), callback, *arguments)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._counted = self.time()
        self._ticked_at = loop.time()
        self._timer = loop.call_later(_TICK_SECONDS, self._tick) if self.is_needed() else None
