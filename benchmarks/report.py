"""The printed report."""

import textwrap
from collections.abc import Mapping

from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.scaling import MAX_EXPONENT, ScalingResult

WIDTHS = (43, 16, 16, 6, 14, 16)
INDENT = " " * 4
HEADINGS = ("stage", "ours", "baseline", "ratio", "target", "limit", "of it")


def _columns(cells: tuple[str, ...]) -> str:
    first, *others = cells
    padded = [first.ljust(WIDTHS[0])]
    padded += [cell.rjust(width) for cell, width in zip(others, (*WIDTHS[1:], 6), strict=True)]
    return " ".join(padded).rstrip()


HEADER = _columns(HEADINGS)


def format_machine(machine: Mapping[str, object]) -> str:
    """Return processor, accelerator and package versions as text."""
    packages = machine["packages"]
    accelerator = machine["accelerator"] or "no accelerator"
    memory = f", {machine['memory_gb']} GB" if machine["memory_gb"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    hardware = f"{machine['processor']}, {machine['cores']} cores{memory}; {accelerator}"
    return f"{hardware}\n{machine['system']}; {versions}\n"


def format_measurement(row: Measurement) -> list[str]:
    """Return the line of the table, and below it the names of baseline and limit and the note."""
    line = _columns(
        (
            row.stage,
            _format_value(row.value, row.unit),
            _format_reference(row.baseline, row.unit),
            "" if row.ratio is None else f"{row.ratio:.3g}x",
            _format_target(row),
            _format_reference(row.limit, row.unit),
            "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}",
        )
    )
    words = [f"baseline: {row.baseline.name}"] if row.baseline else []
    words += [f"limit: {row.limit.name}"] if row.limit else []
    words += [row.note] if row.note else []
    words += [f"WRONG: {row.error}"] if row.error else []
    return [
        line,
        *textwrap.wrap("; ".join(words), len(HEADER), initial_indent=INDENT, subsequent_indent=INDENT),
    ]


def format_scaling(measure_scaling: ScalingResult) -> list[str]:
    """Return the line with the exponent and the seconds at every size."""
    costs = ", ".join(
        f"{size:,}: {seconds:.3g} s"
        for size, seconds in zip(measure_scaling.sizes, measure_scaling.seconds, strict=True)
    )
    within = "ok" if measure_scaling.exponent <= MAX_EXPONENT else "TOO HIGH"
    grows = f"{measure_scaling.unit}s^{measure_scaling.exponent:.2f}"
    return [f"{measure_scaling.stage}: cost ~ {grows} (at most {MAX_EXPONENT}: {within}); {costs}"]


def _format_value(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}"


def _format_reference(mark: ReferenceValue | None, unit: str) -> str:
    return "" if mark is None else _format_value(mark.value, unit)


def _format_target(row: Measurement) -> str:
    if row.target is None:
        return ""
    sign = "<=" if row.lower_is_better else ">="
    bound = f"{row.target:g}x" if row.baseline else _format_value(row.target, row.unit)
    return f"{sign} {bound} {'ok' if row.meets_target else 'MISSED'}"
