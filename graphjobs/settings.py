"""The settings of graphjobs, from environment variables that start with `GRAPHJOBS_` and from no other source."""

import difflib
import os
import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from graphjobs.errors import ConfigurationError

EMBEDDED: Final = "embedded"
"""The value of `database_url` for the embedded server."""

_PREFIX: Final = "GRAPHJOBS_"
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
_OF_OTHERS: Final = re.compile(
    r"GRAPHJOBS_(TEST|BENCH)_\w+"  # read by the pytest plugin, the tests and the benchmarks
    # Kubernetes sets these in each container for a service with a name that starts with "graphjobs".
    r"|GRAPHJOBS_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def _check_url(secret: SecretStr) -> SecretStr:
    """Check the scheme of a URL; the error text does not repeat the URL, which may hold a password."""
    if secret.get_secret_value() == EMBEDDED:
        return secret
    scheme, separator, rest = secret.get_secret_value().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("it must start with postgresql://, or be the word embedded")
    return SecretStr(f"postgresql://{rest}")


def _check_mongodb_url(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("it must start with mongodb:// or mongodb+srv://")
    return secret


def _parse_seconds(value: object) -> object:
    """Parse a number of seconds, the text form of a duration in the environment."""
    try:
        return timedelta(seconds=float(value)) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        raise ValueError("it must be a number of seconds") from None


def _check_search_path(path: str) -> str:
    """Check a list of schemas as PostgreSQL writes it: names in lower case, or in double quotes."""
    schema = r'\s*(?:[a-z_][a-z0-9_$]{0,62}|"(?:[^"\0]|""){1,63}")\s*'
    if path.strip() and not re.fullmatch(f"{schema}(?:,{schema})*", path):
        raise ValueError("it must be schemas separated by commas, each in lower case or in double quotes")
    return path.strip()


Url = Annotated[SecretStr, AfterValidator(_check_url)]
Wait = Annotated[
    timedelta,
    BeforeValidator(_parse_seconds),
    Field(ge=timedelta(milliseconds=1), le=timedelta(days=1), strict=True),
]


class Settings(BaseSettings):
    """The database to use, and the time-outs.

    Every field is an argument, or the environment variable of its name in capitals with the prefix `GRAPHJOBS_`; an
    argument takes precedence. Durations in the environment are seconds.

    Attributes:
        database_url: a libpq URL, `postgresql://` (with `?host=`, `?sslmode=` and so on); or "embedded" for a private
            server on this machine, which the extra `embedded` installs.
        data_dir: the data folder of the embedded server. None means the user's data folder, or for root the
            system's state folder.
        pool_size: the maximum number of connections in each of the two pools (single statements; sessions), 1 to 1000.
        statement_timeout: the longest run time of a statement before the server ends it, 1 ms to 1 day.
        lock_timeout: the longest wait of a statement for a lock before the server ends it, 1 ms to 1 day.
        connect_timeout: the longest wait for a new connection, and for a free one of the pool, 1 ms to 1 day.
        pooler: "transaction" for a pooler in transaction mode (pgbouncer): each statement then runs in an explicit
            transaction, and none is prepared. "direct" otherwise.
        pool_recycle: the age at which a connection is replaced before its next use, 1 ms to 1 day.
        search_path: schemas in which unqualified names in `storage.session()` are looked up, after `pg_catalog`; such
            as "app, public". The statements of graphjobs need none.
        notify: whether each write that queues jobs also notifies listening workers, with one more statement. Without
            it, workers find queued jobs at their next poll.
        mongodb_url: the address of the MongoDB that `graphjobs backfill` reads if its command line names no source.
        mongodb_url_file: a file with that address.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    database_url: Url | None = None
    data_dir: Path | None = None
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 16
    statement_timeout: Wait = timedelta(seconds=30)
    lock_timeout: Wait = timedelta(seconds=10)
    connect_timeout: Wait = timedelta(seconds=10)
    pooler: Literal["direct", "transaction"] = "direct"
    pool_recycle: Wait = timedelta(minutes=5)
    search_path: Annotated[str, AfterValidator(_check_search_path)] = ""
    notify: bool = False
    mongodb_url: Annotated[SecretStr, AfterValidator(_check_mongodb_url)] | None = None
    mongodb_url_file: Path | None = None

    @property
    def is_embedded(self) -> bool:
        """True where the database is the embedded server."""
        return self.database_url is not None and self.database_url.get_secret_value() == EMBEDDED

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; `overrides` take precedence.

        Raises:
            ConfigurationError: a value is invalid, or a variable is unknown; the message names the variable and does
                not repeat the value.
        """
        _check_names(os.environ, [name.upper() for name in cls.model_fields])
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = _PREFIX + "_".join(str(part) for part in first["loc"]).upper()
            reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it must")
            message = f"{name} is invalid: {reason}"
        raise ConfigurationError(message)


def _check_names(names: Iterable[str], known: list[str]) -> None:
    """Refuse unknown variables: a misspelt one would leave its setting at the default, without a word."""
    for name in sorted(names):
        own = name.upper().removeprefix(_PREFIX)
        is_known = own in known and name == _PREFIX + own
        if own != name.upper() and not is_known and not _OF_OTHERS.fullmatch(name):
            close = difflib.get_close_matches(own, known, n=3)
            # People shorten the end of a word rather than leave out its start: DB_URL is DATABASE_URL, not MONGODB_URL.
            nearest = [other for other in close if other[0] == own[0]] or close
            hint = f"did you mean {_PREFIX}{nearest[0]}?" if nearest else f"known are {_PREFIX}{', '.join(known)}"
            raise ConfigurationError(f"{name} is not a setting of graphjobs: {hint}")
