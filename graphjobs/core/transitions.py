"""A transition, its event's payload, and the result that its caller gets. No database here."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar
from uuid import UUID

from pydantic_core import from_json
from uuid_utils.compat import uuid7

from graphjobs.core.fields import check_name
from graphjobs.errors import InvalidJob

dump_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns JSON as it is stored, from plain values."""

RESCUED: Final = "rescued"
"""Key in the payload of an event: the job was taken from a worker that had stopped sending heartbeats."""


class Transitionable(Protocol):
    """A job or run, as far as a transition reads it."""

    @property
    def status(self) -> str:
        """Its status."""
        ...

    @property
    def attempts(self) -> int:
        """The number of started attempts."""
        ...

    @property
    def error(self) -> str | None:
        """The reason why the last attempt failed, or None."""
        ...

    def stored(self, *, updated_at: datetime) -> Self:
        """Return the value as stored at a version."""
        ...


T = TypeVar("T", bound=Transitionable)


class UpdateOutcome(StrEnum):
    """The outcome of an update."""

    APPLIED = "applied"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    ILLEGAL = "illegal"


@dataclass(frozen=True, slots=True)
class AppliedUpdate(Generic[T]):
    """An update that is in the table and in the log. It is true.

    Attributes:
        transition_id: the id of the transition; the same call with it gives the same result.
        job: the job with its new version.
        event_id: the id of the event in the log.
    """

    transition_id: UUID
    job: T
    event_id: int

    outcome: ClassVar[Literal[UpdateOutcome.APPLIED]] = UpdateOutcome.APPLIED
    applied: ClassVar[Literal[True]] = True
    reason: ClassVar[Literal[""]] = ""

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class RefusedUpdate(Generic[T]):
    """An update that changed nothing. It is false.

    Attributes:
        outcome: `conflict`: the job was not in the expected state. `not_found`: the tenant has no such job. `illegal`:
            the transition table does not allow it.
        transition_id: the id of the transition.
        job: conflict: the job as a later read found it, which may differ from the state that the update met. Otherwise
            None.
        reason: one sentence for people.
    """

    outcome: Literal[UpdateOutcome.CONFLICT, UpdateOutcome.NOT_FOUND, UpdateOutcome.ILLEGAL]
    transition_id: UUID
    job: T | None = None
    reason: str = ""

    applied: ClassVar[Literal[False]] = False
    event_id: ClassVar[None] = None

    def __bool__(self) -> Literal[False]:
        return False


UpdateResult: TypeAlias = AppliedUpdate[T] | RefusedUpdate[T]
"""The result of an update. `if result:` tells a type checker that it was applied, and that `job` is there."""

_NO_PAYLOAD: Final[Mapping[str, Any]] = MappingProxyType({})


class RecordedTransition(NamedTuple):
    """A transition in the log: the version it left, the id of its event, and the payload where it was read."""

    version: datetime
    event_id: int
    payload: Mapping[str, Any] = _NO_PAYLOAD


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition of one job: its id, and the payload of its event."""

    transition_id: UUID
    payload: Mapping[str, object]

    @classmethod
    def for_insert(cls, job: Transitionable, transition_id: UUID, actor: str | None) -> Self:
        """Build the insertion of a job."""
        return cls._build({"to": job.status, "attempts": job.attempts}, job, transition_id, actor)

    @classmethod
    def for_update(
        cls, job: Transitionable, expected: str, payload_json: str, transition_id: UUID, actor: str | None
    ) -> Self:
        """Build a transition to `job`; the digest of the payload tells it from another one under the same id."""
        digest = hashlib.sha256(payload_json.encode()).hexdigest()[:32]
        payload = {"from": expected, "to": job.status, "attempts": job.attempts, "digest": digest}
        return cls._build(payload, job, transition_id, actor)

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
        """The payload of the event, as it is stored."""
        return dump_json(self.payload)

    def to_result(self, job: T, recorded: RecordedTransition) -> AppliedUpdate[T]:
        """Build the result for the caller, the same for the first call and for each repeated one."""
        stored = job.stored(updated_at=recorded.version)
        return AppliedUpdate(self.transition_id, stored, recorded.event_id)

    def match_recorded(self, events: Iterable[tuple[str, RecordedTransition]]) -> RecordedTransition | None:
        """Find this transition among the events with its id; None where there are none.

        Args:
            events: their payloads as stored, and what each recorded.

        Raises:
            InvalidJob: the id belongs to another transition of this job.
        """
        is_taken = False
        for text, recorded in events:
            payload = from_json(text)
            if all(payload.get(name) == self.payload.get(name) for name in ("from", "to", "attempts", "digest")):
                return recorded._replace(payload=payload)
            is_taken = True
        if is_taken:
            problem = f"transition_id {self.transition_id} belongs to another transition of this job: use a new one"
            raise InvalidJob(problem, field="transition_id")
        return None


def ensure_transition_id(transition_id: UUID | None) -> UUID:
    """Return the caller's transition id, or a new one.

    Raises:
        InvalidJob: it is not a UUID.
    """
    if transition_id is None:
        return uuid7()
    if isinstance(transition_id, UUID):
        return transition_id
    raise InvalidJob("transition_id must be a UUID", field="transition_id")


def event_payload(source: str, target: str, transition_id: UUID, actor: str | None, **more: object) -> str:
    """Return the payload of an event; entries that are None are left out."""
    payload = {"from": source, "to": target, **more, "transitionId": str(transition_id), "actor": actor}
    return dump_json({name: value for name, value in payload.items() if value is not None})
