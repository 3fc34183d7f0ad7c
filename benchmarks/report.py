"""The lines that are printed."""

import textwrap
from collections.abc import Mapping

from benchmarks.growth import LARGEST_EXPONENT, Growth
from benchmarks.rows import Mark, Row

WIDTHS = (43, 16, 16, 6, 14, 16)
INDENT = " " * 4
TITLES = ("stage", "ours", "alternative", "ratio", "target", "limit", "of it")


def _columns(cells: tuple[str, ...]) -> str:
    first, *others = cells
    padded = [first.ljust(WIDTHS[0])]
    padded += [cell.rjust(width) for cell, width in zip(others, (*WIDTHS[1:], 6), strict=True)]
    return " ".join(padded).rstrip()


HEADER = _columns(TITLES)


def machine_line(machine: Mapping[str, object]) -> str:
    """Processor, accelerator and the the versions of packages, in two lines."""
    packages = machine["packages"]
    accelerator = machine["accelerator"] or "no accelerator"
    memory = f", {machine['memory_gb']} GB" if machine["memory_gb"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    hardware = f"{machine['processor']}, {machine['cores']} cores{memory}; {accelerator}"
    return f"{hardware}\n{machine['system']}; {versions}\n"


def row_lines(row: Row) -> list[str]:
    """The line of the table, and below it what the alternative, the limit and the note are."""
    line = _columns(
        (
            row.stage,
            _figure(row.value, row.unit),
            _mark(row.against, row.unit),
            "" if row.ratio is None else f"{row.ratio:.3g}x",
            _target(row),
            _mark(row.limit, row.unit),
            "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}",
        )
    )
    words = [f"against {row.against.name}"] if row.against else []
    words += [f"limit: {row.limit.name}"] if row.limit else []
    words += [row.note] if row.note else []
    words += [f"WRONG: {row.wrong}"] if row.wrong else []
    return [
        line,
        *textwrap.wrap("; ".join(words), len(HEADER), initial_indent=INDENT, subsequent_indent=INDENT),
    ]


def growth_lines(growth: Growth) -> list[str]:
    """Seconds at every size, and the exponent."""
    costs = ", ".join(
        f"{size:,}: {seconds:.3g} s" for size, seconds in zip(growth.sizes, growth.seconds, strict=True)
    )
    within = "ok" if growth.exponent <= LARGEST_EXPONENT else "TOO HIGH"
    grows = f"{growth.unit}s^{growth.exponent:.2f}"
    return [f"{growth.stage}: cost ~ {grows} (at most {LARGEST_EXPONENT}: {within}); {costs}"]


def _figure(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}"


def _mark(mark: Mark | None, unit: str) -> str:
    return "" if mark is None else _figure(mark.value, unit)


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    sign = "<=" if row.lower_is_better else ">="
    bound = f"{row.target:g}x" if row.against else _figure(row.target, row.unit)
    return f"{sign} {bound} {'ok' if row.reached else 'MISSED'}"
