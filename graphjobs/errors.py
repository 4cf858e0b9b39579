"""The errors of graphjobs. This module imports no other module of the package.

```
GraphJobsError
    InvalidJob              an invalid value; names the field (also a ValueError)
    JobAlreadyExists        the id is in use
    JobNotFound             the tenant has no such job
    JobConflict             the status of the job does not allow the operation
    IdempotencyConflict     the key was used for another request
    IllegalTransition       a transition outside the transition table, refused before any SQL
    CorruptRow              a stored row is unreadable; names the row and affects no other
    OutcomeUnknown          a write was sent and may or may not be applied
    SchemaOutOfDate         the database is at another revision than this code
    DatabaseUnavailable     nothing was changed; safe to try again
    ConfigurationError      the configuration is invalid
```

A lost compare-and-swap is not an error: the repository returns `False`. Errors carry ids, an SQLSTATE and the name of
a constraint, never a payload and never a password, so that they are safe to log.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID


class GraphJobsError(Exception):
    """The base class of all errors of graphjobs; `str()` returns one sentence for people.

    Attributes:
        sqlstate: PostgreSQL's five-character error code, or None for an error without an answer of the server.
        constraint: the name of the violated constraint, or None.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling calls the class with `args` only and would lose keyword-only arguments.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[GraphJobsError], args: tuple[object, ...], state: dict[str, object]) -> GraphJobsError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidJob(GraphJobsError, ValueError):
    """An invalid value in a job, an event or a call.

    Attributes:
        field: the Python name of the first invalid field ("tenant_id", "limit"); empty where the value as a whole is
            invalid.
        problems: all pairs of (field, reason), in order.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        problems: Iterable[tuple[str, str]] = (),
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.field = field
        self.problems = tuple(problems) or ((field, message),)


class JobAlreadyExists(GraphJobsError):
    """An insert with an id that is in use, by this or another tenant; the error does not name the tenant.

    Attributes:
        job_id: the id.
    """

    def __init__(self, job_id: UUID, *, what: str = "graph job") -> None:
        super().__init__(f"a {what} with the id {job_id} already exists")
        self.job_id = job_id


class JobNotFound(GraphJobsError):
    """The tenant has no job or policy run with this id.

    Attributes:
        tenant_id: the tenant of the call.
        job_id: the id of a job, or the caller's own name of a policy run.
    """

    def __init__(self, tenant_id: str, job_id: UUID | str, *, what: str = "graph job") -> None:
        super().__init__(f"tenant {tenant_id!r} has no {what} {job_id}")
        self.tenant_id = tenant_id
        self.job_id = job_id


class JobConflict(GraphJobsError):
    """An operation that the status of a job or policy run does not allow.

    Attributes:
        job_id: the id of the job or run.
        status: the public name of its status, read after the operation failed.
    """

    def __init__(self, message: str, *, job_id: UUID, status: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.status = status


class IdempotencyConflict(GraphJobsError):
    """A key that was used before, for another request. Nothing was changed.

    Attributes:
        key: the key, or the run id of a policy run.
    """

    def __init__(self, key: str, *, what: str = "key") -> None:
        super().__init__(f"the {what} {key!r} was used for another request: repeat that request, or use a new {what}")
        self.key = key


class IllegalTransition(GraphJobsError):
    """A transition that is not in the transition table.

    Attributes:
        expected: the public name of the status before the transition.
        target: the public name of the status after the transition.
    """

    def __init__(self, expected: str, target: str, *, legal: Iterable[str], what: str = "graph job") -> None:
        targets = ", ".join(legal)
        hint = f"legal targets are {targets}" if targets else f"{expected} is final; a retry is a new {what}"
        super().__init__(f"a {what} cannot go from {expected} to {target}: {hint}")
        self.expected = expected
        self.target = target


class CorruptRow(GraphJobsError):
    """A stored row that is unreadable: it violates the invariants of its value.

    Attributes:
        table: "graph_jobs", "policy_runs", "graph_job_events" or "policy_run_events".
        row_id: the primary key: the UUID of a job or run, or the number of an event.
        reason: the violation, without the content of the row.
    """

    def __init__(self, table: str, row_id: UUID | int, reason: str) -> None:
        super().__init__(f"the row of scheduler.{table} with the id {row_id} is unreadable: {reason}")
        self.table = table
        self.row_id = row_id
        self.reason = reason


UNREPLICATED: Final = (
    "the write is committed, and no synchronous standby has confirmed it yet: a failover could lose it; make the same "
    "call again, with the same transition id if it takes one"
)


class Backend(NamedTuple):
    """The server process of a connection. A process id alone can belong to another process, or to another server.

    Attributes:
        pid: its process id.
        started_at: when it was started.
        server_started_at: when its server was started.
    """

    pid: int
    started_at: datetime
    server_started_at: datetime


class OutcomeUnknown(GraphJobsError):
    """A write was sent, and the connection ended before the answer: it may be applied now, later or never.

    It is raised, too, for a write that is committed while no synchronous standby has confirmed it: a failover could
    lose it. Do not repeat the write blindly: read the job first, or call the store again with the same transition id.

    Attributes:
        backend: the backend of the connection, or None where it is not certain, as behind a pooler. While it runs, the
            write may still be applied.
    """

    def __init__(self, message: str, *, backend: Backend | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.backend = backend


class SchemaOutOfDate(GraphJobsError):
    """The schema revision of the database is older than the one that this code needs.

    Attributes:
        found: the revision of the database, or None without one (or if it is unknown).
        expected: the revision that this code needs.
    """

    def __init__(self, *, found: str | None, expected: str, sqlstate: str | None = None) -> None:
        state = f"is at revision {found}" if found else "lacks the schema of graphjobs, or a part of it"
        super().__init__(
            f"the database {state}, and this code needs {expected}: run `graphjobs db upgrade`", sqlstate=sqlstate
        )
        self.found = found
        self.expected = expected


class DatabaseUnavailable(GraphJobsError):
    """The database is down, overloaded, locked or shutting down. Nothing was changed; retry with back-off."""


class ConfigurationError(GraphJobsError):
    """Invalid settings, such as a bad URL, a refused password or a missing extra. A retry does not help."""
