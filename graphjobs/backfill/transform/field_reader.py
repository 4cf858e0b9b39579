"""Reads the fields of one MongoDB document and notes each change. No knowledge of jobs, no I/O.

An invalid field raises `FieldRejected`. Its text names types and lengths, and never repeats a value.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Never

from bson.int64 import Int64
from bson.objectid import ObjectId

from graphjobs.backfill.transform.coercion import (
    bson_to_json,
    bson_to_json_text,
    parse_int,
    parse_json_object,
    parse_time,
    to_kebab_case,
)
from graphjobs.backfill.transform.diagnostics import FieldChange, FieldRejected, describe, safe_label
from graphjobs.backfill.transform.dotnet import entries_of, is_exact_time_text, is_unset_time, unwrap
from graphjobs.backfill.transform.uuids import LegacyUuids, uuid_of
from graphjobs.core.fields import NAMES_MAX
from graphjobs.core.metadata import METADATA_ENTRIES_MAX
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.core.unique_json import DuplicateKey

_UNKNOWN_FIELDS_MAX: Final = 1_000
_NEVER_PRESERVED: Final = frozenset({"_quarantine"})
"""The tag of a line of the quarantine, which counts only in its own folder."""

_NOT_A_FIELD: Final = "is not a field of a document; remove it, or import the line in the folder of its quarantine"
_NUMBERS: Final = (int, Int64, float)
_FIRST_YEAR: Final = 1
_LAST_YEAR: Final = 9999

_DIGEST: Final = re.compile(r"sha256:[0-9a-fA-F]{64}")


class EnumWords(NamedTuple):
    """The words of an enumeration.

    Attributes:
        words: the accepted words, each with its current word.
        codes: the current words in the order of their numbers; empty if a number has no meaning.
    """

    words: Mapping[str, str]
    codes: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class FieldReader:
    """The unread fields of one document, and the changes of the fields that were read.

    Each method removes its field. So the fields that remain in the end are unknown ones.

    Attributes:
        fields: the unread fields.
        changes: the changes in reading order, which does not depend on the document.
        preserved: values without a field of their own, by their name in the metadata or payload.
        prefix: prefix of field names in changes and errors: "inputs." for the fields of `inputs`.
        legacy_uuids: the byte order of the document's UUIDs of subtype 3.
    """

    fields: dict[str, Any]
    changes: list[FieldChange] = field(default_factory=list)
    preserved: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    legacy_uuids: LegacyUuids = "csharp"

    def note_change(self, field: str, code: str) -> None:
        """Add a change."""
        self.changes.append(FieldChange(self.prefix + field, code))

    def reject(self, field: str, expected: str, value: object) -> Never:
        """Raise `FieldRejected` with the expected form of a field and the type of its value."""
        problem = (
            f"is missing; it must be {expected}" if value is None else f"must be {expected}, not {describe(value)}"
        )
        raise FieldRejected(self.prefix + field, problem)

    def preserve(self, name: str, text: str, target: str = "metadata") -> None:
        """Preserve a value without a field of its own under a name of the metadata or payload.

        Raises:
            FieldRejected: another text is preserved under this name.
        """
        if self.preserved.setdefault(name, text) != text:
            raise FieldRejected(target, f"must not hold two values of {safe_label(name)}")

    def rename(self, old: str, name: str) -> None:
        """Accept an old name of a field.

        Raises:
            FieldRejected: both names have a value.
        """
        value = self.fields.pop(old, None)
        if value is None:
            return
        if self.fields.get(name) is not None:
            raise FieldRejected(self.prefix + name, f"has a second value, under its old name {old}")
        self.fields[name] = value
        self.note_change(name, f"was {old}")

    def text(self, name: str) -> str | None:
        """Read optional text, or an id as text. Empty text counts as missing, with a change."""
        value = self.fields.pop(name, None)
        if type(value) is str:
            if value:
                return value
            self.note_change(name, "empty text left out")
            return None
        return None if value is None else self._id_text(name, "text", value)

    def require_text(self, name: str) -> str:
        """Read text that is required and not empty, or an id as text."""
        value = self.fields.pop(name, None)
        if type(value) is str and value:
            return value
        return self._id_text(name, "non-empty text", value)

    def _id_text(self, name: str, expected: str, value: object) -> str:
        """Return the text of an id: .NET writes each Guid in binary form, and some text as an ObjectId."""
        found = (value, "") if type(value) is ObjectId else uuid_of(value, self.legacy_uuids)
        if found is None:
            self.reject(name, expected, value)
        change = FieldChange(self.prefix + name, f"was binary, {found[1]}" if found[1] else "was an ObjectId")
        if change not in self.changes:  # once for a list
            self.changes.append(change)
        return str(found[0])

    def error(self, name: str) -> str | None:
        """Read an optional error text. It is sanitized, with a change if that alters it."""
        text = self.text(name)
        if text is None:
            return None
        sanitized = sanitize_error(text)
        if sanitized != text:
            self.note_change(name, "cleaned")
        return sanitized

    def digest(self, name: str) -> str:
        """Read a required SHA-256 digest, in lower case."""
        value = self.require_text(name)
        if not _DIGEST.fullmatch(value):
            self.reject(name, "'sha256:' and 64 hexadecimal digits", value)
        lowered = value.lower()
        if lowered != value:
            self.note_change(name, "lower case")
        return lowered

    def enum(self, name: str, words: EnumWords, default: str | None = None) -> str:
        """Read one of some words, also in the spelling of .NET or as its number.

        Args:
            name: the field.
            words: the words.
            default: the word for a missing field; None if the field is required.
        """
        value = self.fields.pop(name, None)
        if value is None and default is not None:
            self.note_change(name, "was missing")
            return default
        if type(value) is str:
            word = words.words.get(value)
            if word == value:
                return word
            word = word or words.words.get(to_kebab_case(value))
            if word is not None:
                self.note_change(name, "old word")
                return word
        elif words.codes and type(value) in _NUMBERS:
            code, change = (value, "was a number") if type(value) is int else parse_int(value)
            if code is not None and 0 <= code < len(words.codes):
                self.note_change(name, change)
                return words.codes[code]
        return self.reject(name, "one of " + ", ".join(sorted(set(words.words.values()))), value)

    def time(self, name: str, *, required: bool = False) -> datetime | None:
        """Read a time. The smallest and the largest time of .NET count as missing, with a change.

        Args:
            name: the field.
            required: take the smallest and the largest time as they are.
        """
        value = self.fields.pop(name, None)
        if value is None:
            return None
        if type(value) is datetime and value.tzinfo is None and _FIRST_YEAR < value.year < _LAST_YEAR:
            return value.replace(tzinfo=UTC)  # nearly every document
        if not required and is_unset_time(value):
            self.note_change(name, "unset in .NET, left out")
            return None
        parsed = parse_time(value)
        if parsed is None:
            self.reject(name, "a time of the years 0001 to 9999, or its ISO 8601 text", value)
        time, codes = parsed
        if not required and type(value) is str and not is_exact_time_text(value) and is_unset_time(time):
            self.note_change(name, "unset in .NET, left out")
            return None
        for code in codes:
            self.note_change(name, code)
        return time

    def number(self, name: str) -> int | None:
        """Read an optional whole number, of any type that converts without loss."""
        value = self.fields.pop(name, None)
        if value is None or type(value) is int:
            return value
        number, code = parse_int(value)
        if number is None:
            self.reject(name, "a whole number", value)
        self.note_change(name, code)
        return number

    def flag(self, name: str) -> bool | None:
        """Read an optional boolean."""
        value = self.fields.pop(name, None)
        return value if value is None or type(value) is bool else self.reject(name, "true or false", value)

    def names(self, name: str) -> tuple[str, ...]:
        """Read an optional list of names, without duplicates and sorted. Ids become text."""
        value = self.fields.pop(name, None)
        if value is None:
            return ()
        if type(value) is not list or len(value) > NAMES_MAX:
            self.reject(name, f"a list of at most {NAMES_MAX:,} names", value)
        if None in value:
            raise FieldRejected(self.prefix + name, "must be a list of text, without null")
        if not all(type(item) is str for item in value):
            value = [item if type(item) is str else self._id_text(name, "a list of text", item) for item in value]
        ordered = sorted(set(value))
        if ordered != value:
            self.note_change(name, "sorted, each once")
        return tuple(ordered)

    def document(self, name: str) -> dict[str, Any]:
        """Read an optional nested document, or the JSON text of one."""
        value = self.fields.pop(name, None)
        if value is None:
            return {}
        try:
            parsed = parse_json_object(value) if type(value) is str else None
        except DuplicateKey as duplicate:
            raise FieldRejected(
                self.prefix + name, f"its JSON text has {safe_label(duplicate.key)} twice in one object"
            ) from None
        if parsed is not None:
            self.note_change(name, "was JSON text")
            return parsed
        entries = entries_of(value)
        if entries is not None:
            self.note_change(name, "was a list of entries")
            return entries
        return dict(value) if isinstance(value, Mapping) else self.reject(name, "a document", value)

    def metadata(self) -> dict[str, str]:
        """Read the metadata. Empty entries are left out, and entries of other types become JSON text."""
        entries: dict[str, str] = {}
        whole = self.fields.get("metadata")
        if type(whole) is dict:  # nearly every document: no copy is needed
            del self.fields["metadata"]
        else:
            whole = self.document("metadata")
        for key, wrapped in whole.items():
            value = unwrap(wrapped)
            if type(value) is str and value and type(key) is str:
                entries[key] = value
                continue
            if type(key) is not str:
                self.reject("metadata", "a map of text to text", key)
            code = "empty text left out"
            if value is not None and value != "":
                found = (value,) if type(value) is ObjectId else uuid_of(value, self.legacy_uuids)
                entries[key] = str(found[0]) if found else bson_to_json_text(value, "metadata", self.legacy_uuids)
                code = "other than text kept as JSON text"
            if FieldChange("metadata", code) not in self.changes:
                self.note_change("metadata", code)
        return entries

    def json(self, name: str) -> dict[str, Any]:
        """Read an optional JSON object, with sorted keys."""
        entries, codes = bson_to_json(self.document(name), self.prefix + name, self.legacy_uuids)
        for code in codes:
            self.note_change(name, code)
        return entries

    def preserve_unknown(self, target: str = "metadata") -> None:
        """Preserve unknown fields as `legacy.<name>`, as JSON text if they are not text. Empty ones are left out.

        Raises:
            FieldRejected: there are too many, or JSON does not support the type of one.
        """
        if not self.fields:
            return
        if len(self.fields) > _UNKNOWN_FIELDS_MAX:
            limit = f"at most {_UNKNOWN_FIELDS_MAX:,} unknown fields are allowed, not {len(self.fields):,}"
            raise FieldRejected(target, limit)
        for name in sorted(self.fields, key=str):
            value = self.fields[name]
            label = safe_label(name)
            if value is None or (type(value) is str and not value):
                self.note_change(label, "empty unknown field left out")
            elif type(name) is not str or name in _NEVER_PRESERVED:
                raise FieldRejected(self.prefix + label, _NOT_A_FIELD)
            else:
                is_text = type(value) is str
                text = value if is_text else bson_to_json_text(value, self.prefix + label, self.legacy_uuids)
                self.preserve(f"legacy.{self.prefix}{name}", text, target)
                self.note_change(label, f"unknown field kept in {target}{'' if is_text else ' as JSON text'}")

    def with_preserved(self, entries: dict[str, Any], target: str = "metadata") -> dict[str, Any]:
        """Return the metadata of a job, or the payload of an event, with the preserved values.

        Raises:
            FieldRejected: there are too many entries, or an entry has the name of another preserved value.
        """
        if not self.preserved:
            return entries
        for name, text in self.preserved.items():
            if entries.setdefault(name, text) != text:
                raise FieldRejected(target, f"holds another {safe_label(name)} already")
        if target == "metadata" and len(entries) > METADATA_ENTRIES_MAX:
            names = ", ".join(safe_label(name) for name in list(self.preserved)[:3])
            raise FieldRejected(target, f"must have at most {METADATA_ENTRIES_MAX} entries, including {names}")
        return entries


def first_available(reader: FieldReader, field: str, times: Iterable[tuple[str, datetime | None]]) -> datetime | None:
    """Return the first of some times for a field without a value, with a change that names its source."""
    for name, time in times:
        if time is not None:
            reader.note_change(field, f"taken from {name}")
            return time
    return None
