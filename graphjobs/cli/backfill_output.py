"""How what came of a move, its trial and its check is shown: tables for people, records for programs."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from graphjobs.cli.output import print_table, print_texts

if TYPE_CHECKING:
    from graphjobs.backfill.checkpoints import Counts
    from graphjobs.backfill.dry_run import Survey
    from graphjobs.backfill.quarantine.files import Written
    from graphjobs.backfill.runner import Report
    from graphjobs.backfill.verify import Comparison

_ROWS_MAX: Final = 200
"""Of more groups than that a table shows the largest; --json has them all."""

_COUNTS: Final = (
    "documents",
    "added",
    "renewed",
    "unchanged",
    "moved_on",
    "changed",
    "quarantined",
    "settled",
    "answered",
)


def records_of_survey(whole: "Survey") -> Iterator[dict[str, Any]]:
    """Gives a dry run, an object a line: the whole, what would come, what would be changed, what cannot come."""
    yield {
        "documents": whole.documents,
        "changed": whole.changed,
        "repeated": whole.repeated,
        "refused": whole.refused,
        "judgedAlone": list(whole.judged_alone),
    }
    for (tenant, kind, status), number in sorted(whole.counts.items()):
        yield {"tenant": tenant, "kind": kind, "status": status, "documents": number}
    yield from _records_of_changes(whole.changes)
    for (collection, field), refusals in sorted(whole.refusals.items()):
        yield {"collection": collection, "field": field, "refused": refusals.number, "first": refusals.first}


def print_survey(whole: "Survey") -> None:
    """Prints a dry run."""
    repeated = f", {whole.repeated:,} are there more than once" if whole.repeated else ""
    lines = [
        f"{whole.documents:,} documents: {whole.changed:,} would be changed{repeated}, {whole.refused:,} cannot come"
    ]
    lines += [
        f"{collection} is judged without its jobs, of which the source has none" for collection in whole.judged_alone
    ]
    print_texts(lines)
    _print_groups(("tenant", "kind", "status", "documents"), whole.counts)
    _print_groups(("collection", "field", "what would be changed", "times"), whole.changes)
    if whole.refusals:
        print_texts([""])
        refusals = sorted(whole.refusals.items(), key=lambda each: -each[1].number)[:_ROWS_MAX]
        print_table(
            ("collection", "field", "cannot come", "the first of them"),
            ((*group, f"{each.number:,}", each.first) for group, each in refusals),
        )


def records_of_report(report: "Report") -> Iterator[dict[str, Any]]:
    """Gives a backfill, an object a line: each part, what this run changed on the way, what waits."""
    for each in report.parts:
        told = {"part": each.part.name, "collection": each.part.collection, "resumed": each.resumed}
        yield told | _figures(each.counts)
    yield from _records_of_changes(report.changes)
    for collection, number in sorted(report.waiting.items()):
        yield {"collection": collection, "waiting": number}


def print_report(report: "Report") -> None:
    """Prints a backfill."""
    headings = (
        "part",
        "documents",
        "added",
        "renewed",
        "unchanged",
        "moved on here",
        "quarantined",
        "settled",
        "answered",
        "",
    )
    rows = [
        (
            each.part.name,
            *(
                f"{number:,}"
                for number in (
                    each.counts.documents,
                    each.counts.added,
                    each.counts.renewed,
                    each.counts.unchanged,
                    each.counts.moved_on,
                    each.counts.quarantined,
                    each.counts.settled,
                    each.counts.answered,
                )
            ),
            "resumed" if each.resumed else "",
        )
        for each in report.parts
    ]
    print_table(headings, rows)
    _print_groups(("collection", "field", "what was changed", "times"), report.changes)


def records_of_comparison(comparison: "Comparison") -> Iterator[dict[str, Any]]:
    """Gives a check, an object a line: the whole, both sides of each group, what differs."""
    yield {
        "documents": comparison.documents,
        "waiting": comparison.waiting,
        "settled": comparison.settled,
        "holds": comparison.holds,
        "differences": {str(each): number for each, number in sorted(comparison.differences.items())},
    }
    for group, source, here in comparison.groups:
        sides = {
            "source": {"number": source.number, "digest": f"{source.digest:016x}"},
            "here": {"number": here.number, "digest": f"{here.digest:016x}"},
        }
        yield {**group._asdict(), **sides, "equal": source == here}
    for each in comparison.named:
        yield {"differs": str(each.difference), **each.group._asdict(), "id": each.id}


def print_comparison(comparison: "Comparison") -> None:
    """Prints a check: the groups that differ, or else all of them, and what differs."""
    differ = [each for each in comparison.groups if each[1] != each[2]]
    told = [f"{comparison.documents:,} documents compared"]
    if comparison.waiting:
        told.append(f"{comparison.waiting:,} of them wait in the quarantine")
    if comparison.settled:
        told.append(f"{comparison.settled:,} of them came mended, or were given up")
    equal = f"{len(differ):,} of {len(comparison.groups):,} groups differ" if differ else "all is equal"
    print_texts([f"{', '.join(told)}: {equal}"])
    shown = (differ or comparison.groups)[:_ROWS_MAX]
    if shown:
        print_texts([""])
        headings = ("tenant", "kind", "status", "source", "here", "digest of the source", "digest here")
        rows = (
            (*group, f"{source.number:,}", f"{here.number:,}", f"{source.digest:016x}", f"{here.digest:016x}")
            for group, source, here in shown
        )
        print_table(headings, rows)
    if comparison.named:
        print_texts([""])
        print_table(
            ("differs", "tenant", "kind", "status", "id"),
            ((str(each.difference), *each.group, each.id) for each in comparison.named[:_ROWS_MAX]),
        )
        left = comparison.differences.total() - min(len(comparison.named), _ROWS_MAX)
        if left > 0:
            print_texts([f"and {left:,} more; --json names up to 1,000 of each sort"])
    if differ and comparison.holds:
        print_texts(["", "all that can come is here; what differs is of services, of other sources, or came mended"])


def _figures(counts: "Counts") -> dict[str, int]:
    return {_camel(name): getattr(counts, name) for name in _COUNTS}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)


def _records_of_changes(changes: Mapping[tuple[str, str, str], int]) -> Iterator[dict[str, Any]]:
    for (collection, field, change), number in sorted(changes.items()):
        yield {"collection": collection, "field": field, "change": change, "times": number}


def _print_groups(headings: tuple[str, ...], groups: Mapping[tuple[str, str, str], int]) -> None:
    if not groups:
        return
    print_texts([""])
    largest = sorted(groups.items(), key=lambda each: -each[1])[:_ROWS_MAX]
    print_table(headings, ((*group, f"{number:,}") for group, number in sorted(largest)))
    if len(groups) > len(largest):
        print_texts([f"and {len(groups) - len(largest):,} smaller groups; --json tells them all"])


def tell_aside(written: "Written") -> None:
    """Says, beside what was asked for, where mends were put that nobody has fed in."""
    for path in written.aside:
        typer.echo(
            f"graphjobs: what was mended and not fed in is kept: feed it in with graphjobs backfill {path}",
            err=True,
        )
