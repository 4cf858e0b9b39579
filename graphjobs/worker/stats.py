"""What a worker has done so far, for people and programs."""

from dataclasses import dataclass


@dataclass
class Tally:
    """How much whoever does queued work has, whatever it is.

    Attributes:
        failed: failed, in the table and in the log.
        given_back: given back, because the worker stopped.
        lost: no longer its own when it ended; whoever has it ends it.
        unreadable: claimed, and failed because its row cannot be read.
        rescued: waits again, of workers that stopped.
        rescued_to_fail: failed, of workers that stopped at the last attempt.
    """

    failed: int = 0
    given_back: int = 0
    lost: int = 0
    unreadable: int = 0
    rescued: int = 0
    rescued_to_fail: int = 0


@dataclass
class Counts(Tally):
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


@dataclass
class DispatchCounts(Tally):
    """How many policy runs a dispatcher has; see `Tally` for the rest.

    Attributes:
        leased: leased.
        submitted: handed over, in the table and in the log.
        retried: given back because the attempt failed, to be tried again later.
        canceled: canceled, because that was asked for.
        exhausted: leased, and failed because they had had all their attempts.
    """

    leased: int = 0
    submitted: int = 0
    retried: int = 0
    canceled: int = 0
    exhausted: int = 0
