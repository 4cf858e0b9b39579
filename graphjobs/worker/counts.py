"""What a worker has done so far, for people and programs."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """How many jobs a worker has.

    Attributes:
        claimed: started.
        completed: completed, in the table and in the log.
        failed: failed likewise, for whatever reason.
        given_back: given back to the queue, because the worker stopped.
        lost: no longer its own when they ended; whoever has them ends them.
        unreadable: claimed, and failed because their rows cannot be read.
        rescued: queued again, of workers that stopped.
        rescued_to_fail: failed, of workers that stopped at the last attempt.
    """

    claimed: int = 0
    completed: int = 0
    failed: int = 0
    given_back: int = 0
    lost: int = 0
    unreadable: int = 0
    rescued: int = 0
    rescued_to_fail: int = 0
