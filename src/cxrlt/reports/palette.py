"""The colours of every figure: Okabe and Ito's for losses, Tol's for groups, apart to colour-blind eyes too."""

from collections.abc import Sequence

BLACK, GREY, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = COLOURS = (
    "#000000",
    "#8C8C8C",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
LOSS_COLOURS = {
    "bce": BLACK,
    "focal": GREY,
    "asl": ORANGE,
    "apl": GREEN,
    "hill": SKY,
    "ral": VERMILLION,
    "class_aware": BLUE,
    "db": PURPLE,
    "ce": BLACK,
    "softmax_focal": GREY,
    "balanced_softmax": ORANGE,
    "ldam": GREEN,
    "ral_single": SKY,
    "lmf": BLUE,
    "logit_adjusted": PURPLE,
}
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
