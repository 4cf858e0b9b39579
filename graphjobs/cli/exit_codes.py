"""The exit codes of the command, which scripts rely on; no other room knows them."""

from enum import IntEnum

from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError, SchemaOutOfDate


class Exit(IntEnum):
    """What the command's end means. 2 is the shell's own word for a call that was not understood."""

    DONE = 0
    FAILED = 1
    """It was tried, and refused or not so: rows that a downgrade would drop, a drift, a server that is not running."""
    USAGE = 2
    CONFIGURATION = 3
    UNAVAILABLE = 4
    SCHEMA = 5


def exit_code(error: GraphJobsError) -> Exit:
    """Gives the exit code an error ends the command with."""
    match error:
        case ConfigurationError():
            return Exit.CONFIGURATION
        case DatabaseUnavailable():
            return Exit.UNAVAILABLE
        case SchemaOutOfDate():
            return Exit.SCHEMA
    return Exit.FAILED
