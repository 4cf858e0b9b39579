"""The output: tables, a summary of the targets, and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure, Ratio


def print_conditions(console: Console, conditions: Mapping[str, str]) -> None:
    """Print the conditions of the measurement."""
    _print_pairs(console, conditions)


def print_suite(console: Console, title: str, figures: Sequence[Figure], legend: Mapping[str, str]) -> None:
    """Print the figures of one suite, a section per operation, and the legend."""
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
    competitors = {figure.competitor for figure in figures}
    _print_pairs(console, {name: text for name, text in legend.items() if name in competitors})


def print_targets(console: Console, suites: Mapping[str, Sequence[Figure]]) -> None:
    """Print each figure with a target and its outcome, by suite, and the number of missed targets."""
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
    all_figures = [figure for figures in suites.values() for figure in figures]
    number = count_missed(all_figures)
    console.print(f"{number} of {len(_targeted(all_figures))} targets missed" if number else "all targets reached")


def count_missed(figures: Sequence[Figure]) -> int:
    """Count the missed targets."""
    return sum(not ratio.reached for _, ratio in _targeted(figures))


def write_json(path: Path, conditions: Mapping[str, str], suites: Mapping[str, Sequence[Figure]]) -> None:
    """Write all printed figures as JSON."""
    document = {
        "conditions": dict(conditions),
        "suites": {name: [_as_json(figure) for figure in figures] for name, figures in suites.items()},
        "missed": sum(count_missed(figures) for figures in suites.values()),
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    """Create a table without lines between columns, for a narrow terminal; `>` after a heading aligns right."""
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
