"""Colours of all figures, safe for colour-blind readers: Okabe-Ito for losses, Paul Tol for class groups."""

from collections.abc import Sequence
from typing import Literal, get_args

BLACK, ORANGE, BLUE, GREEN, PURPLE, SKY, VERMILLION, GREY = COLOURS = (
    "#000000",
    "#E69F00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#8C8C8C",
)
LOSS_COLOURS = {
    "bce": BLACK,
    "focal": GREY,
    "asl": ORANGE,
    "apl": GREEN,
    "hill": SKY,
    "ral": BLUE,
    "class_aware": PURPLE,
    "db": VERMILLION,
    "ce": BLACK,
    "softmax_focal": GREY,
    "balanced_softmax": ORANGE,
    "ldam": GREEN,
    "ral_single": SKY,
    "lmf": PURPLE,
    "logit_adjusted": VERMILLION,
}
"""Colour of each loss in all figures. If two losses in a figure share a colour, the first one keeps it."""
GROUP_COLOURS = {"head": "#332288", "medium": "#44AA99", "tail": "#DDAA33"}
NEGATIVES_COLOUR = "#D9D9D9"
LineStyle = Literal["-", "--", ":"]
LINE_STYLES: tuple[LineStyle, ...] = get_args(LineStyle)


def assign_styles(names: Sequence[str]) -> dict[str, tuple[str, LineStyle]]:
    """Return colour and line style of every name.

    Losses have fixed colours; other names get the next free colour. With more names than colours, the line
    style distinguishes them.
    """
    wanted = {name: LOSS_COLOURS[name] for name in names if name in LOSS_COLOURS}
    firsts = {colour: name for name, colour in reversed(wanted.items())}
    free = [colour for colour in COLOURS if colour not in firsts]
    free += [colour for _ in LINE_STYLES[1:] for colour in COLOURS]
    taken: dict[str, int] = {}
    chosen: dict[str, tuple[str, LineStyle]] = {}
    for name in names:
        keeps = name in wanted and firsts[wanted[name]] == name
        colour = wanted[name] if keeps else free.pop(0)
        chosen[name] = (colour, LINE_STYLES[taken.get(colour, 0) % len(LINE_STYLES)])
        taken[colour] = taken.get(colour, 0) + 1
    return chosen
