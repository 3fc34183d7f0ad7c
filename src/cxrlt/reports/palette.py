"""The colours of every figure, safe for colour-blind readers: Okabe and Ito for losses, Tol for groups."""

from collections.abc import Sequence

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
"""The same for a loss in every figure; a colour that both kinds would have goes to the first."""
GROUP_COLOURS = {"head": "#332288", "medium": "#44AA99", "tail": "#DDAA33"}
NEGATIVES = "#D9D9D9"
DASHES = ("-", "--", ":")


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each of `names`: a loss keeps its own, another name gets the next free one.

    With more names than colours the line style tells them apart.
    """
    wanted = {name: LOSS_COLOURS[name] for name in names if name in LOSS_COLOURS}
    firsts = {colour: name for name, colour in reversed(wanted.items())}
    free = [colour for colour in COLOURS if colour not in firsts]
    free += [colour for _ in DASHES[1:] for colour in COLOURS]
    taken: dict[str, int] = {}
    chosen = {}
    for name in names:
        keeps = name in wanted and firsts[wanted[name]] == name
        colour = wanted[name] if keeps else free.pop(0)
        chosen[name] = (colour, DASHES[taken.get(colour, 0) % len(DASHES)])
        taken[colour] = taken.get(colour, 0) + 1
    return chosen
