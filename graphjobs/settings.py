"""What graphjobs takes from its environment: variables that start with `GRAPHJOBS_`, and nothing else."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from graphjobs.errors import ConfigurationError

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")


def _checked_url(secret: SecretStr) -> SecretStr:
    """Refuses what is no PostgreSQL URL, without ever repeating it: it may hold a password."""
    scheme, separator, rest = secret.get_secret_value().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("it must start with postgresql://")
    return SecretStr(f"postgresql://{rest}")


def _seconds(value: object) -> object:
    """The environment speaks of durations in seconds, as text."""
    try:
        return timedelta(seconds=float(value)) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        raise ValueError("it must be a number of seconds") from None


Url = Annotated[SecretStr, AfterValidator(_checked_url)]
Wait = Annotated[
    timedelta,
    BeforeValidator(_seconds),
    Field(ge=timedelta(milliseconds=1), le=timedelta(days=1), strict=True),
]


class Settings(BaseSettings):
    """How to reach the database, and how long to wait for it.

    Every field can be given as an argument, or as the environment variable of its name, in capitals and with
    `GRAPHJOBS_` before it; an argument wins. Durations in the environment are seconds.

    Attributes:
        database_url: any `postgresql://` URL, as libpq takes it (`?host=`, `?sslmode=` and so on). None means the
            embedded server, which the extra `embedded` brings.
        data_dir: the folder the embedded server keeps its data in. None means the user's data folder, or the
            system's state folder for root.
        pool_size: the most connections to hold, for each of the two pools (single statements; sessions).
        statement_timeout: the longest a statement may run before the server ends it.
        lock_timeout: the longest a statement may wait for a lock before the server ends it.
        connect_timeout: the longest to wait for a new connection, and for a free one of the pool.
        pooler: "transaction" behind a pooler in transaction mode (pgbouncer): each statement then runs in an explicit
            transaction, and nothing is prepared. "direct" otherwise.
        notify: whether workers that listen are told of queued jobs, by a statement more after each write that queues
            some. They find them without, when they next look.
    """

    model_config = SettingsConfigDict(env_prefix="GRAPHJOBS_", frozen=True, extra="forbid", env_ignore_empty=True)

    database_url: Url | None = None
    data_dir: Path | None = None
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 16
    statement_timeout: Wait = timedelta(seconds=30)
    lock_timeout: Wait = timedelta(seconds=10)
    connect_timeout: Wait = timedelta(seconds=10)
    pooler: Literal["direct", "transaction"] = "direct"
    notify: bool = False

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Reads the environment, with `given` before it.

        Raises:
            ConfigurationError: a value that cannot be; the sentence names the variable and never repeats the value.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = "GRAPHJOBS_" + "_".join(str(part) for part in first["loc"]).upper()
            reason = first["msg"].removeprefix("Value error, ")
            message = f"{name} cannot be used: {reason}"
        raise ConfigurationError(message)
