"""Output of a backfill, a dry run and a verification: tables for people, records for programs."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from graphjobs.cli.output import print_lines, print_table, print_texts

if TYPE_CHECKING:
    from graphjobs.backfill.dry_run import DryRunReport
    from graphjobs.backfill.quarantine.files import QuarantineFiles
    from graphjobs.backfill.runner import BackfillReport
    from graphjobs.backfill.verify import Comparison

_ROWS_MAX: Final = 200
"""The maximum number of groups in a table, the largest ones; --json prints all."""

_COLUMNS: Final = (
    "documents",
    "added",
    "overwritten",
    "unchanged",
    "target_ahead",
    "quarantined",
    "resolved_before",
    "resolved",
)


def records_of_dry_run(report: "DryRunReport") -> Iterator[dict[str, Any]]:
    """Yield a dry run as objects: the totals, the imported groups, the changes, the rejections."""
    yield {
        "documents": report.documents,
        "changed": report.changed,
        "repeated": report.repeated,
        "rejected": report.rejected,
        "unverifiedEvents": list(report.unverified_events),
    }
    for (tenant, kind, status), number in sorted(report.counts.items()):
        yield {"tenant": tenant, "kind": kind, "status": status, "documents": number}
    yield from _records_of_changes(report.changes)
    for (collection, field), group in sorted(report.rejections.items()):
        yield {"collection": collection, "field": field, "rejected": group.number, "first": group.first}


def print_dry_run(report: "DryRunReport") -> None:
    """Print a dry run."""
    repeated = f", {report.repeated:,} are repeated" if report.repeated else ""
    lines = [
        f"{report.documents:,} documents: {report.changed:,} would be changed{repeated}, "
        f"{report.rejected:,} would be rejected"
    ]
    lines += [f"{name} are unverified: the source has no collection of their jobs" for name in report.unverified_events]
    print_texts(lines)
    _print_groups(("tenant", "kind", "status", "documents"), report.counts)
    _print_groups(("collection", "field", "change", "times"), report.changes)
    if report.rejections:
        print_texts([""])
        largest = sorted(report.rejections.items(), key=lambda item: -item[1].number)[:_ROWS_MAX]
        rows = ((*key, f"{group.number:,}", group.first) for key, group in largest)
        print_table(("collection", "field", "rejected", "first"), rows)


def print_report(report: "BackfillReport", *, as_json: bool) -> None:
    """Print a backfill: the parts, then the changes; as JSON also the pending documents."""
    if as_json:
        print_lines(_records_of_report(report))
        return
    rows = [
        (
            part.part.name,
            *(f"{getattr(part.counts, name):,}" for name in _COLUMNS),
            "resumed" if part.resumed else "",
        )
        for part in report.parts
    ]
    print_table(("part", *(name.replace("_", " ") for name in _COLUMNS), ""), rows)
    _print_groups(("collection", "field", "change", "times"), report.changes)


def _records_of_report(report: "BackfillReport") -> Iterator[dict[str, Any]]:
    for part in report.parts:
        counts = {_to_json_name(name): getattr(part.counts, name) for name in (*_COLUMNS, "changed")}
        yield {"part": part.part.name, "collection": part.part.collection, "resumed": part.resumed, **counts}
    yield from _records_of_changes(report.changes)
    for collection, number in sorted(report.pending.items()):
        yield {"collection": collection, "pending": number}


def records_of_comparison(comparison: "Comparison") -> Iterator[dict[str, Any]]:
    """Yield a verification as objects: the totals, both sides of each group, the differences."""
    yield {
        "documents": comparison.documents,
        "pending": comparison.pending,
        "resolvedBefore": comparison.resolved_before,
        "ok": comparison.ok,
        "differences": {str(difference): number for difference, number in sorted(comparison.differences.items())},
    }
    for group, source, target in comparison.groups:
        sides = {
            "source": {"number": source.number, "digest": f"{source.digest:016x}"},
            "target": {"number": target.number, "digest": f"{target.digest:016x}"},
        }
        yield {**group._asdict(), **sides, "equal": source == target}
    for sample in comparison.samples:
        yield {"difference": str(sample.difference), **sample.group._asdict(), "id": sample.id}


def print_comparison(comparison: "Comparison") -> None:
    """Print a verification: the groups that differ, or all if none differs, and the differences."""
    different = [group for group in comparison.groups if group[1] != group[2]]
    totals = [f"{comparison.documents:,} documents compared"]
    if comparison.pending:
        totals.append(f"{comparison.pending:,} pending in quarantine")
    if comparison.resolved_before:
        totals.append(f"{comparison.resolved_before:,} resolved before")
    result = f"{len(different):,} of {len(comparison.groups):,} groups differ" if different else "all groups are equal"
    print_texts([f"{', '.join(totals)}: {result}"])
    shown = (different or comparison.groups)[:_ROWS_MAX]
    if shown:
        print_texts([""])
        headings = ("tenant", "kind", "status", "source", "target", "digest of source", "digest of target")
        rows = (
            (*group, f"{source.number:,}", f"{target.number:,}", f"{source.digest:016x}", f"{target.digest:016x}")
            for group, source, target in shown
        )
        print_table(headings, rows)
    if comparison.samples:
        print_texts([""])
        samples = comparison.samples[:_ROWS_MAX]
        print_table(
            ("difference", "tenant", "kind", "status", "id"),
            ((str(sample.difference), *sample.group, sample.id) for sample in samples),
        )
        remaining = comparison.differences.total() - len(samples)
        if remaining > 0:
            print_texts([f"and {remaining:,} more; --json prints up to 1,000 of each difference"])
    if different and comparison.ok:
        print_texts(
            ["", "no document is missing; the differences come from services, other sources or repaired documents"]
        )


def _to_json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _records_of_changes(changes: Mapping[tuple[str, str, str], int]) -> Iterator[dict[str, Any]]:
    for (collection, field, change), number in sorted(changes.items()):
        yield {"collection": collection, "field": field, "change": change, "times": number}


def _print_groups(headings: tuple[str, ...], groups: Mapping[tuple[str, str, str], int]) -> None:
    if not groups:
        return
    print_texts([""])
    largest = sorted(groups.items(), key=lambda item: -item[1])[:_ROWS_MAX]
    print_table(headings, ((*group, f"{number:,}") for group, number in sorted(largest)))
    if len(groups) > len(largest):
        print_texts([f"and {len(groups) - len(largest):,} smaller groups; --json prints all"])


def warn_backups(written: "QuarantineFiles") -> None:
    """Print, on standard error, the paths of edited files that were not imported."""
    for path in written.backups:
        typer.echo(
            f"graphjobs: edits that were not imported are kept: import them with graphjobs backfill {path}", err=True
        )
