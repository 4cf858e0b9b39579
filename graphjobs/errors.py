"""Every error graphjobs raises on purpose, and nothing else: this room imports no other.

```
GraphJobsError
    InvalidJob              a bad value; names the field (also a ValueError)
    JobAlreadyExists        an id that is taken
    JobNotFound             no such job for this tenant
    JobConflict             a use case the job's status does not allow
    IdempotencyConflict     a key that was used for another request
    IllegalTransition       a move outside the transition table, refused before any SQL
    CorruptRow              a stored row that cannot be read; names it, harms no other
    OutcomeUnknown          sent, and not known to have landed
    SchemaOutOfDate         the database is at another revision than this code
    DatabaseUnavailable     nothing was done; safe to try again
    ConfigurationError      what was configured cannot work
```

A lost swap is no error: the repository answers `False`. Errors carry ids, an SQLSTATE and the name of a
constraint, never a payload and never a password, so that they can be logged as they are.
"""

from collections.abc import Iterable
from uuid import UUID


class GraphJobsError(Exception):
    """What every error of graphjobs is; `str()` of it is one sentence for people.

    Attributes:
        sqlstate: PostgreSQL's five-character error code, or None where no server spoke.
        constraint: the name of the constraint at fault, or None.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling calls the class with args alone, which keyword-only arguments do not survive.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[GraphJobsError], args: tuple[object, ...], state: dict[str, object]) -> GraphJobsError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidJob(GraphJobsError, ValueError):
    """A value that cannot be part of a job, an event or a call.

    Attributes:
        field: the first field at fault, by its Python name ("tenant_id", "limit"); empty where the value as a
            whole is at fault.
        problems: every (field, what is wrong with it), in order.
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
    """An insert of an id that is taken, by whichever tenant: the tenant is not told.

    Attributes:
        job_id: the id.
    """

    def __init__(self, job_id: UUID, *, what: str = "graph job") -> None:
        super().__init__(f"a {what} with the id {job_id} exists already; insert takes an id once")
        self.job_id = job_id


class JobNotFound(GraphJobsError):
    """No job, or policy run, of this id belongs to this tenant.

    Attributes:
        tenant_id: who asked.
        job_id: what was asked for: a job's id, or the asker's own name of a policy run.
    """

    def __init__(self, tenant_id: str, job_id: UUID | str, *, what: str = "graph job") -> None:
        super().__init__(f"tenant {tenant_id!r} has no {what} {job_id}")
        self.tenant_id = tenant_id
        self.job_id = job_id


class JobConflict(GraphJobsError):
    """A use case that the status of a job or policy run does not allow, now or any more.

    Attributes:
        job_id: which job, or run.
        status: the wire word of its status, as it was read after the attempt.
    """

    def __init__(self, message: str, *, job_id: UUID, status: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.status = status


class IdempotencyConflict(GraphJobsError):
    """A key that was used before, for another request. Nothing was done.

    Attributes:
        key: the key, or the run id of a policy run.
    """

    def __init__(self, key: str, *, what: str = "key") -> None:
        super().__init__(
            f"the {what} {key!r} was used for another request: ask for that one again, or take a new {what}"
        )
        self.key = key


class IllegalTransition(GraphJobsError):
    """A move that the transition table does not hold.

    Attributes:
        expected: the wire word of the status moved from.
        target: the wire word of the status moved to.
    """

    def __init__(self, expected: str, target: str, *, legal: Iterable[str], what: str = "graph job") -> None:
        words = ", ".join(legal)
        rest = f"from {expected} it may become {words}" if words else f"{expected} is final; a retry is a new one"
        super().__init__(f"a {what} cannot go from {expected} to {target}: {rest}")
        self.expected = expected
        self.target = target


class CorruptRow(GraphJobsError):
    """A stored row that cannot be read as what its table holds.

    Attributes:
        table: "graph_jobs" or "policy_runs", or one of their logs, as "graph_job_events".
        row_id: the primary key: a job's or run's UUID, an event's number.
        reason: what is wrong with it, without its content.
    """

    def __init__(self, table: str, row_id: UUID | int, reason: str) -> None:
        super().__init__(f"scheduler.{table} holds a row that cannot be read, id {row_id}: {reason}")
        self.table = table
        self.row_id = row_id
        self.reason = reason


class OutcomeUnknown(GraphJobsError):
    """A write was sent, and the connection ended before the answer: it may have landed, or may still land.

    Do not repeat it blindly; read the job first, or ask the store again with the same transition id.

    Attributes:
        backend: the process id of the server's side of that connection, or None where a pooler hides it. As long as it
            runs, the write may still land.
    """

    def __init__(self, message: str, *, backend: int | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.backend = backend


class SchemaOutOfDate(GraphJobsError):
    """The database's schema is not the one this code was written for.

    Attributes:
        found: the revision the database is at, or None where there is none (or it could not be told).
        expected: the revision this code needs.
    """

    def __init__(self, *, found: str | None, expected: str, sqlstate: str | None = None) -> None:
        is_at = f"is at revision {found}" if found else "lacks the schema of graphjobs, or a part of it"
        super().__init__(
            f"the database {is_at}, and this code needs {expected}: run `graphjobs db upgrade`", sqlstate=sqlstate
        )
        self.found = found
        self.expected = expected


class DatabaseUnavailable(GraphJobsError):
    """The database could not do it now, and has not done it: down, overloaded, locked, or shutting down.

    Safe to try again, with back-off.
    """


class ConfigurationError(GraphJobsError):
    """Settings that cannot work, whatever the database does: a bad URL, a refused password, a missing extra."""
