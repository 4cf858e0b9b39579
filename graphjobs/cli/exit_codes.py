"""The exit codes of the command, which scripts rely on; no other module contains them."""

from enum import IntEnum

from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError, InvalidJob, SchemaOutOfDate


class Exit(IntEnum):
    """The exit codes of the command. 2 is the convention of shells for a usage error."""

    DONE = 0
    FAILED = 1
    """A refused call or a negative result: a downgrade that would drop rows, a schema drift, a stopped server."""
    USAGE = 2
    CONFIGURATION = 3
    UNAVAILABLE = 4
    SCHEMA = 5


def exit_code(error: GraphJobsError) -> Exit:
    """Return the exit code of an error."""
    match error:
        case InvalidJob():
            return Exit.USAGE
        case ConfigurationError():
            return Exit.CONFIGURATION
        case DatabaseUnavailable():
            return Exit.UNAVAILABLE
        case SchemaOutOfDate():
            return Exit.SCHEMA
    return Exit.FAILED
