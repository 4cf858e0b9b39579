"""What is printed and what is written: tables, a summary of the targets, JSON; measures nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure, Ratio


def print_conditions(console: Console, conditions: Mapping[str, str]) -> None:
    """Prints what the figures were taken on."""
    _print_pairs(console, conditions)


def print_suite(console: Console, title: str, figures: Sequence[Figure], legend: Mapping[str, str]) -> None:
    """Prints one suite's figures, a section for each operation, and who did what."""
    headings = ("operation", "callers>", "competitor", "median>", "unit", "of it CPU>", "ratio>", "p10..p90", "against")
    table = _table(title, headings)
    before = None
    for figure in figures:
        section = (figure.operation, figure.callers)
        if before not in (None, section):
            table.add_section()
        shown = figure.ratios[0] if figure.ratios else None
        table.add_row(
            figure.operation if section != before else "",
            str(figure.callers) if section != before else "",
            figure.competitor,
            f"{figure.median:,.0f}",
            figure.unit,
            f"{figure.cpu:,.0f}" if figure.cpu is not None else "",
            *((f"{shown.median:.2f}", _spread(shown), shown.against) if shown else ("", "", "")),
        )
        before = section
    console.print(table)
    took_part = {figure.competitor for figure in figures}
    _print_pairs(console, {name: text for name, text in legend.items() if name in took_part})


def print_targets(console: Console, suites: Mapping[str, Sequence[Figure]]) -> None:
    """Prints each figure that has a target, suite by suite, whether that was reached, and how many were missed."""
    table = _table("targets", ("operation", "callers>", "figure", "ratio>", "p10..p90", "target", "outcome"))
    for name, figures in suites.items():
        if targeted := _targeted(figures):
            table.add_section()
            table.add_row(f"[dim]{name}[/]")
        for figure, ratio in targeted:
            table.add_row(
                figure.operation,
                str(figure.callers),
                f"{ratio.of} / {ratio.against}",
                f"{ratio.median:.2f}",
                _spread(ratio),
                _target(ratio),
                "[green]reached[/]" if ratio.reached else "[red]missed[/]",
            )
    console.print(table)
    every = [figure for figures in suites.values() for figure in figures]
    number = missed(every)
    console.print(f"{number} of {len(_targeted(every))} targets missed" if number else "every target was reached")


def missed(figures: Sequence[Figure]) -> int:
    """Counts the targets that were missed."""
    return sum(not ratio.reached for _, ratio in _targeted(figures))


def write_json(path: Path, conditions: Mapping[str, str], suites: Mapping[str, Sequence[Figure]]) -> None:
    """Writes everything that was printed, for programs."""
    written = {
        "conditions": dict(conditions),
        "suites": {name: [_as_json(figure) for figure in figures] for name, figures in suites.items()},
        "missed": sum(missed(figures) for figures in suites.values()),
    }
    path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_json(figure: Figure) -> dict[str, object]:
    return asdict(figure) | {"ratios": [asdict(ratio) | {"reached": ratio.reached} for ratio in figure.ratios]}


def _targeted(figures: Sequence[Figure]) -> list[tuple[Figure, Ratio]]:
    return [(figure, ratio) for figure in figures for ratio in figure.ratios if ratio.reached is not None]


def _target(ratio: Ratio) -> str:
    bounds = ((ratio.at_most, "at most"), (ratio.at_least, "at least"))
    return ", ".join(f"{words} {bound:g}" for bound, words in bounds if bound is not None)


def _spread(ratio: Ratio) -> str:
    return f"{ratio.low:.2f}..{ratio.high:.2f}"


def _table(title: str, headings: Sequence[str]) -> Table:
    """A table without lines between columns, so that it fits a narrow terminal; `>` after a heading aligns right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        name = heading.removesuffix(">")
        table.add_column(name, justify="left" if name == heading else "right", no_wrap=True)
    return table


def _print_pairs(console: Console, pairs: Mapping[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, text in pairs.items():
        grid.add_row(f"[bold]{name}[/]", text)
    console.print(grid)
    console.print()
