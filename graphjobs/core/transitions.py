"""A move and what came of it: its id, what its event tells, and what its caller is answered; no database here."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

from pydantic_core import from_json
from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_name
from graphjobs.errors import InvalidJob

dump_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Gives JSON as it is stored, of plain values."""

RESCUED: Final = "rescued"
"""In the payload of an event: it was taken from somebody who gave no sign of life."""


class Transitionable(Protocol):
    """What moves: it stands somewhere, has had attempts, and may say why the last one failed."""

    @property
    def status(self) -> str:
        """Where it stands."""
        ...

    @property
    def attempts(self) -> int:
        """How many attempts it has had."""
        ...

    @property
    def error(self) -> str | None:
        """Why the last one failed."""
        ...

    def stored(self, *, updated_at: datetime) -> Self:
        """Gives it as the database now holds it, at a version."""
        ...


T = TypeVar("T", bound=Transitionable)


class UpdateOutcome(StrEnum):
    """What came of an update."""

    APPLIED = "applied"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    ILLEGAL = "illegal"


@dataclass(frozen=True, slots=True)
class UpdateResult(Generic[T]):
    """What came of an update, and what to know of it; true where it was applied.

    Attributes:
        outcome: `applied`: this very move is in the table and in the log. `conflict`: the job was not as the move
            expected. `not_found`: the tenant has no such job. `illegal`: none may move so. All but `applied` changed
            nothing.
        transition_id: the id of the move; asking with it again answers the same.
        job: applied: the job with its new version. Conflict: the job as a later look found it, which may be another
            state than the one the move met. Else None.
        event_id: applied: the id of the event in the log. Else None.
        reason: one sentence for people; empty where applied.
    """

    outcome: UpdateOutcome
    transition_id: UUID
    job: T | None = None
    event_id: int | None = None
    reason: str = ""

    @property
    def applied(self) -> bool:
        """True where the move is in the table and in the log."""
        return self.outcome is UpdateOutcome.APPLIED

    def __bool__(self) -> bool:
        return self.applied


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class RecordedTransition(NamedTuple):
    """What a move left behind: the version, its event, and what that tells where it was looked up."""

    version: datetime
    event_id: int
    payload: Mapping[str, Any] = _NOTHING


@dataclass(frozen=True, slots=True)
class Transition:
    """One move of one job: its id, and what its event tells."""

    transition_id: UUID
    payload: Mapping[str, object]

    @classmethod
    def for_insert(cls, job: Transitionable, transition_id: UUID, actor: str | None) -> Self:
        """The addition of a job; its id alone says which."""
        return cls._build({"to": job.status, "attempts": job.attempts}, job, transition_id, actor)

    @classmethod
    def for_update(
        cls, job: Transitionable, expected: str, payload_json: str, transition_id: UUID, actor: str | None
    ) -> Self:
        """A move to `job`; the digest of its document tells it from another one under the same id."""
        digest = hashlib.sha256(payload_json.encode()).hexdigest()[:32]
        told = {"from": expected, "to": job.status, "attempts": job.attempts, "digest": digest}
        return cls._build(told, job, transition_id, actor)

    @classmethod
    def _build(cls, payload: dict[str, object], job: Transitionable, transition_id: UUID, actor: str | None) -> Self:
        payload["transitionId"] = str(transition_id)
        if actor is not None:
            payload["actor"] = check_name(actor, "actor")
        if job.error is not None:
            payload["error"] = job.error
        return cls(transition_id, payload)

    @property
    def event_payload(self) -> str:
        """The event's payload, as it is stored."""
        return dump_json(self.payload)

    def to_result(self, job: T, recorded: RecordedTransition) -> UpdateResult[T]:
        """What the move's caller is told, the first time and each time after."""
        stored = job.stored(updated_at=recorded.version)
        return UpdateResult(UpdateOutcome.APPLIED, self.transition_id, stored, recorded.event_id)

    def match_recorded(self, events: Iterable[tuple[str, RecordedTransition]]) -> RecordedTransition | None:
        """Finds this very move among the events that have its id; None where there are none.

        Args:
            events: their payloads, as they are stored, and what each left behind.

        Raises:
            InvalidJob: the id names other moves of this job only.
        """
        others = False
        for payload, logged in events:
            told = from_json(payload)
            if all(told.get(name) == self.payload.get(name) for name in ("from", "to", "attempts", "digest")):
                return logged._replace(payload=told)
            others = True
        if others:
            raise InvalidJob(
                f"transition_id: {self.transition_id} names another move of this job; each move takes its own",
                field="transition_id",
            )
        return None


def ensure_transition_id(transition_id: UUID | None) -> UUID:
    """Gives a move's id: the caller's, or a new one.

    Raises:
        InvalidJob: it is no UUID.
    """
    if transition_id is None:
        return uuid7()
    if isinstance(transition_id, UUID):
        return transition_id
    raise InvalidJob("transition_id: it should be a UUID", field="transition_id")


def event_payload(source: str, target: str, transition_id: UUID, actor: str | None, **told: object) -> str:
    """Gives the payload of an event; what is None is left out."""
    given = {"from": source, "to": target, **told, "transitionId": str(transition_id), "actor": actor}
    return dump_json({name: value for name, value in given.items() if value is not None})
