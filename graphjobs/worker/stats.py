"""Counters of workers and dispatchers."""

from dataclasses import dataclass


@dataclass
class BaseStats:
    """Counters that workers and dispatchers share; they count jobs or policy runs.

    Attributes:
        failed: stored as failed, for any reason.
        released: returned to the queue, because the worker stopped.
        lost: no longer owned by the worker at the end of the attempt, or when the lost answer of a claim was found; the
            new owner finishes them.
        unreadable: claimed, and failed because their rows are unreadable.
        rescued: stalled, and queued again.
        rescue_failed: stalled at the last attempt, and failed.
    """

    failed: int = 0
    released: int = 0
    lost: int = 0
    unreadable: int = 0
    rescued: int = 0
    rescue_failed: int = 0


@dataclass
class WorkerStats(BaseStats):
    """Counters of a worker of graph jobs; see `BaseStats` for the others.

    Attributes:
        claimed: claimed, and started unless they are unreadable.
        completed: stored as completed.
    """

    claimed: int = 0
    completed: int = 0


@dataclass
class DispatcherStats(BaseStats):
    """Counters of a dispatcher of policy runs; see `BaseStats` for the others.

    Attributes:
        leased: leased.
        submitted: stored as submitted.
        retried: released after a failed attempt, for a later attempt.
        canceled: canceled as requested.
        exhausted: leased without an attempt left, and failed.
    """

    leased: int = 0
    submitted: int = 0
    retried: int = 0
    canceled: int = 0
    exhausted: int = 0
