"""Reads the fields of one MongoDB document, and tells what had to be changed; knows no job, and does no I/O.

What cannot be read raises `Refusal`, whose sentence names types and lengths and never repeats what stood there.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Never

from graphjobs.backfill.transform.coercion import (
    bson_to_json,
    bson_to_json_text,
    parse_int,
    parse_json_object,
    parse_time,
    to_kebab_case,
)
from graphjobs.backfill.transform.diagnostics import FieldChange, FieldRejected, describe, safe_label
from graphjobs.core.fields import METADATA_ENTRIES_MAX, NAMES_MAX, sanitize_error

_UNKNOWN_FIELDS_MAX: Final = 1_000
_NEVER_PRESERVED: Final = frozenset({"_quarantine"})
"""The tag of a line of the quarantine, where it is not as that was written."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-fA-F]{64}")


class FieldReader:
    """The fields of one document that are not read yet, and what was told of those that are.

    Each reader takes its field out, so that what is left in the end is what nobody knows.

    Attributes:
        fields: what is not read yet.
        changes: what was told, in the order of the reading, which is not the document's.
        kept: what has no field of its own and goes to the metadata, by its name there.
        prefix: what stands before the names of fields when they are told: "inputs." for those within `inputs`.
    """

    __slots__ = ("changes", "fields", "prefix", "preserved")

    def __init__(
        self, fields: dict[str, Any], changes: list[FieldChange], preserved: dict[str, str], prefix: str = ""
    ) -> None:
        self.fields = fields
        self.changes = changes
        self.preserved = preserved
        self.prefix = prefix

    def note_change(self, field: str, code: str) -> None:
        """Notes a change."""
        self.changes.append(FieldChange(self.prefix + field, code))

    def reject(self, field: str, expected: str, value: object) -> Never:
        """Ends the reading."""
        raise FieldRejected(self.prefix + field, f"it should be {expected}, not {describe(value)}")

    def preserve(self, name: str, text: str, target: str = "metadata") -> None:
        """Keeps what has no field of its own.

        Raises:
            Refusal: something else is kept under this name.
        """
        if self.preserved.setdefault(name, text) != text:
            raise FieldRejected(target, f"it would hold two of {safe_label(name)}")

    def rename(self, old: str, name: str) -> None:
        """Takes an old name for a field.

        Raises:
            Refusal: it stands there under both.
        """
        value = self.fields.pop(old, None)
        if value is None:
            return
        if self.fields.get(name) is not None:
            raise FieldRejected(self.prefix + name, f"it stands beside {old}, and one of them is too many")
        self.fields[name] = value
        self.note_change(name, f"was {old}")

    def text(self, name: str) -> str | None:
        """Reads text that may be missing; empty text is taken as that, and told."""
        value = self.fields.pop(name, None)
        if type(value) is str:
            if value:
                return value
            self.note_change(name, "empty text left out")
            return None
        return None if value is None else self.reject(name, "text", value)

    def require_text(self, name: str) -> str:
        """Reads text that must not be missing."""
        value = self.fields.pop(name, None)
        if type(value) is str and value:
            return value
        return self.reject(name, "text", value)

    def error(self, name: str) -> str | None:
        """Reads why something failed; it is cleaned and cut, and told where that changes it."""
        text = self.text(name)
        if text is None:
            return None
        cleaned = sanitize_error(text)
        if cleaned != text:
            self.note_change(name, "cleaned")
        return cleaned

    def digest(self, name: str) -> str:
        """Reads a SHA-256 digest."""
        value = self.require_text(name)
        if not _DIGEST.fullmatch(value):
            self.reject(name, "'sha256:' and 64 hexadecimal digits", value)
        lowered = value.lower()
        if lowered != value:
            self.note_change(name, "lower case")
        return lowered

    def enum(self, name: str, words: Mapping[str, str], default: str | None = None) -> str:
        """Reads one of some words.

        Args:
            name: the field.
            words: the words that may stand there, each with the one of ours that it means.
            default: what a missing one means; without it, it must not be missing.
        """
        value = self.fields.pop(name, None)
        if value is None and default is not None:
            self.note_change(name, "was missing")
            return default
        if type(value) is str:
            word = words.get(value)
            if word == value:
                return word
            word = word or words.get(to_kebab_case(value))
            if word is not None:
                self.note_change(name, "old word")
                return word
        return self.reject(name, "one of " + ", ".join(sorted(set(words.values()))), value)

    def time(self, name: str) -> datetime | None:
        """Reads a time that may be missing."""
        value = self.fields.pop(name, None)
        if value is None:
            return None
        if type(value) is datetime and value.tzinfo is None:  # as nearly always
            return value.replace(tzinfo=UTC)
        read = parse_time(value)
        if read is None:
            self.reject(name, "a time of the years 0001 to 9999, or its ISO 8601 text", value)
        time, codes = read
        for code in codes:
            self.note_change(name, code)
        return time

    def number(self, name: str) -> int | None:
        """Reads a whole number that may be missing, of any type that holds it without loss."""
        value = self.fields.pop(name, None)
        if value is None or type(value) is int:
            return value
        number, code = parse_int(value)
        if number is None:
            self.reject(name, "a whole number", value)
        self.note_change(name, code)
        return number

    def flag(self, name: str) -> bool | None:
        """Reads true or false, which may be missing."""
        value = self.fields.pop(name, None)
        return value if value is None or type(value) is bool else self.reject(name, "true or false", value)

    def names(self, name: str) -> tuple[str, ...]:
        """Reads a set of names, which may be missing."""
        value = self.fields.pop(name, None)
        if value is None:
            return ()
        if type(value) is not list or len(value) > NAMES_MAX:
            self.reject(name, f"a list of at most {NAMES_MAX:,} names", value)
        for item in value:
            if type(item) is not str:
                self.reject(name, "a list of text", item)
        ordered = sorted(set(value))
        if ordered != value:
            self.note_change(name, "sorted, each once")
        return tuple(ordered)

    def document(self, name: str) -> dict[str, Any]:
        """Reads a document within, or the JSON text of one; it may be missing."""
        value = self.fields.pop(name, None)
        if value is None:
            return {}
        read = parse_json_object(value) if type(value) is str else None
        if read is not None:
            self.note_change(name, "was JSON text")
            return read
        return dict(value) if isinstance(value, Mapping) else self.reject(name, "a document", value)

    def metadata(self) -> dict[str, str]:
        """Reads the metadata; entries that are empty or null are left out, others than text are kept as JSON text."""
        entries: dict[str, str] = {}
        whole = self.fields.get("metadata")
        if type(whole) is dict:  # as nearly always: nothing to be read from text, and no copy to be made
            del self.fields["metadata"]
        else:
            whole = self.document("metadata")
        for key, value in whole.items():
            if type(value) is str and value and type(key) is str:
                entries[key] = value
                continue
            if type(key) is not str:
                self.reject("metadata", "text by text", key)
            code = "empty text left out"
            if value is not None and value != "":
                entries[key] = bson_to_json_text(value, "metadata")
                code = "other than text kept as JSON text"
            if FieldChange("metadata", code) not in self.changes:
                self.note_change("metadata", code)
        return entries

    def json(self, name: str) -> dict[str, Any]:
        """Reads any JSON object, which may be missing, its keys sorted."""
        entries, codes = bson_to_json(self.document(name), self.prefix + name)
        for code in codes:
            self.note_change(name, code)
        return entries

    def preserve_unknown(self, target: str = "metadata") -> None:
        """Keeps the fields that nobody knows as `legacy.<name>`, others than text as JSON text; nulls are left out.

        Raises:
            Refusal: JSON has no form for one.
        """
        if not self.fields:
            return
        if len(self.fields) > _UNKNOWN_FIELDS_MAX:
            raise FieldRejected(
                target, f"at most {_UNKNOWN_FIELDS_MAX:,} unknown fields are read, not {len(self.fields):,}"
            )
        for name in sorted(self.fields, key=str):
            value = self.fields[name]
            told = safe_label(name)
            if value is None or (type(value) is str and not value):
                self.note_change(told, "empty unknown field left out")
            elif type(name) is not str or name in _NEVER_PRESERVED:
                self.reject(told, "left out: it is no field of ours", value)
            elif type(value) is str:
                self.preserve(f"legacy.{self.prefix}{name}", value, target)
                self.note_change(told, f"unknown field kept in {target}")
            else:
                self.preserve(f"legacy.{self.prefix}{name}", bson_to_json_text(value, self.prefix + told), target)
                self.note_change(told, f"unknown field kept in {target} as JSON text")

    def with_preserved(self, entries: dict[str, Any], target: str = "metadata") -> dict[str, Any]:
        """Gives the metadata, or an event's payload, with what is kept.

        Raises:
            Refusal: it has no room, or holds something else under one of the names.
        """
        if not self.preserved:
            return entries
        for name, text in self.preserved.items():
            if entries.setdefault(name, text) != text:
                raise FieldRejected(target, f"it already holds another {safe_label(name)}")
        if target == "metadata" and len(entries) > METADATA_ENTRIES_MAX:
            names = ", ".join(safe_label(name) for name in list(self.preserved)[:3])
            raise FieldRejected(target, f"its {METADATA_ENTRIES_MAX} entries leave no room for {names}")
        return entries


def first_available(document: FieldReader, field: str, times: Iterable[tuple[str, datetime | None]]) -> datetime | None:
    """Gives the first time there is in place of a field's own, and tells whose it was; None where there is none."""
    for name, time in times:
        if time is not None:
            document.note_change(field, f"taken from {name}")
            return time
    return None
