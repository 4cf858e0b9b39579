"""The records that a source yields, with their positions. This module reads no file and no server."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from graphjobs.backfill.extract.decoding import Encoding, InvalidExtendedJson, decoder, parse_extended_json

JOBS: Final = "graph_jobs"
RUNS: Final = "policy_runs"
EVENTS: Final = "graph_job_events"
RUN_EVENTS: Final = "policy_run_events"

COLLECTIONS: Final = (JOBS, RUNS, EVENTS, RUN_EVENTS)
"""The collections of a source in reading order: events need their jobs, and run events their runs."""

QUARANTINE_MARKER: Final = ".graphjobs-quarantine"
"""The file that marks a folder as a quarantine, where lines are tagged with their entries."""

END_OFFSET: Final = 2**63 - 1
"""The offset after the last record of a part."""


class ReadOffset(NamedTuple):
    """The position after a record, where reading continues. A checkpoint stores it.

    Attributes:
        ordinal: number of records of the part before this position, including unreadable ones.
        offset: byte of the (decompressed) file where the next record begins; `END_OFFSET` after the last record.
        id: the last `_id` that was read from a MongoDB server.
    """

    ordinal: int = 0
    offset: int = 0
    id: Any = None

    def to_json(self) -> str:
        """Return the text that a checkpoint stores."""
        from bson import json_util

        return json_util.dumps(list(self), json_options=json_util.CANONICAL_JSON_OPTIONS)

    @classmethod
    def from_json(cls, text: str) -> "ReadOffset":
        """Parse the text of `to_json`.

        Raises:
            ValueError: the text is not a position.
        """
        try:
            ordinal, offset, key = parse_extended_json(text)
            return cls(int(ordinal), int(offset), key)
        except (ValueError, TypeError, ArithmeticError, LookupError, InvalidExtendedJson):
            raise ValueError("the text is not a position of a source") from None


class SourceLocation(NamedTuple):
    """The location of a record within its source.

    Attributes:
        part: name of the part: a file, or a collection of a server.
        ordinal: number of the record within its part, from 1.
        offset: byte of the (decompressed) file where the record begins; None on a server.
        next: where reading continues after the record.
    """

    part: str
    ordinal: int
    offset: int | None
    next: ReadOffset

    @property
    def description(self) -> str:
        """The location as text for a message."""
        if self.offset is None:
            return f"{self.part}, document {self.ordinal:,}"
        return f"{self.part}, at byte {self.offset:,}"


class SourceRecord(NamedTuple):
    """One encoded record of a part.

    Attributes:
        collection: the record's collection.
        location: the record's location.
        encoding: format of `raw`.
        raw: the bytes, at most the size of the largest document.
        problem: why the bytes are not a document, for example because the file is truncated; None if they can be
            decoded.
        is_quarantine: whether the record is a line of a quarantine, so that its tag counts.
    """

    collection: str
    location: SourceLocation
    encoding: Encoding
    raw: bytes
    problem: str | None = None
    is_quarantine: bool = False

    def decode(self) -> dict[str, Any] | str:
        """Return a new copy of the document, or a description of the problem with its location.

        Times are naive and in UTC. Binary values stay `Binary`.
        """
        outcome = decoder(self.encoding)(self.raw) if self.problem is None else self.problem
        if not isinstance(outcome, str):
            return outcome
        is_last = self.problem is None and self.location.next.offset == END_OFFSET
        hint = "; it is the last record, so the file may be cut off" if is_last else ""
        return f"{self.location.description}: {outcome}{hint}"


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One collection of a source.

    Attributes:
        collection: one of `COLLECTIONS`.
        name: file name, or database and collection.
        fingerprint: changes when the content of the part changes. A `ReadOffset` is valid for one fingerprint.
        size_bytes: size of the (compressed) file or of the collection's documents; None if it is unknown.
        is_quarantine: whether the file is one of a quarantine.
    """

    collection: str
    name: str
    fingerprint: str
    size_bytes: int | None
    is_quarantine: bool = False
