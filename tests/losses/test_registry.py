"""Losses by name: what they are called, what they take, and what is said when that is wrong."""

import inspect
import subprocess
import sys

import pytest
import torch
from loss_cases import COUNTS, DEFAULTS

from cxrlt.losses import (
    LOSSES,
    CrossEntropy,
    FocalLoss,
    HillLoss,
    LDAMLoss,
    create_loss,
    loss,
    loss_names,
    loss_options,
)
from cxrlt.losses.singlelabel import label_matrix

SIGNATURES = {
    "bce": "BinaryCrossEntropy(pos_weight=None, class_weights='none')",
    "focal": "FocalLoss(gamma=2, alpha=None)",
    "asl": "AsymmetricLoss(gamma_neg=4, gamma_pos=1, clip=0.05, detach_focusing=False, class_weights='none')",
    "apl": "AsymmetricPolynomialLoss(gamma_neg=4, gamma_pos=0, clip=0.05, epsilon_pos=1, "
    "epsilon_pos_pow=-2.5, epsilon_neg=0, detach_focusing=True, class_weights='none')",
    "hill": "HillLoss(hill_lambda=1.5, margin=1, gamma=2, class_weights='none')",
    "ral": "RobustAsymmetricLoss(form='paper', gamma_neg=4, gamma_pos=0, clip=0.05, hill_lambda=1.5, "
    "epsilon_pos=1, epsilon_pos_pow=-2.5, epsilon_neg=0, detach_focusing=False, class_weights='none')",
    "class_aware": "ClassAwareLoss(margin=0.2, decoupled=True, base=None, class_weights='uniform', "
    "detach_weights=False)",
    "db": "DistributionBalancedLoss(alpha=0.1, beta=10, mu=0.2, neg_scale=2, init_bias=0.05, gamma=2, "
    "focal_balance=2)",
    "ce": "CrossEntropy(class_weights='none', label_smoothing=0)",
    "softmax_focal": "SoftmaxFocalLoss(gamma=2, class_weights='none')",
    "ral_single": "RobustAsymmetricSingleLabelLoss(form='paper', gamma_neg=4, gamma_pos=0, clip=0.05, "
    "hill_lambda=1.5, epsilon_pos=1, epsilon_pos_pow=-2.5, epsilon_neg=0, detach_focusing=False)",
    "ldam": "LDAMLoss(max_margin=0.5, scale=30, class_weights='none', reweight_epoch=None)",
    "lmf": "LMFLoss(alpha=1.5, beta=1, gamma=1.5, max_margin=0.5, scale=30, class_weights='margins')",
    "balanced_softmax": "BalancedSoftmax()",
    "logit_adjusted": "LogitAdjusted(tau=1)",
}


def positional(loss: type) -> str:
    """The name of a loss with its positional arguments and their defaults."""
    parameters = list(inspect.signature(loss.__init__).parameters.values())[1:]
    shown = [f"{p.name}={p.default!r}" for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return f"{loss.__name__}({', '.join(shown)})"


def test_names_arguments_and_defaults_are_the_documented_ones():
    assert {name: positional(entry.loss) for name, entry in LOSSES.items()} == SIGNATURES


def test_names_are_listed_by_task():
    multi, single = loss_names("multi_label"), loss_names("single_label")
    assert multi == ["apl", "asl", "bce", "class_aware", "db", "focal", "hill", "ral"]
    assert loss_names() == sorted(multi + single)
    assert loss_options("hill") == ["hill_lambda", "margin", "gamma", "class_weights", "reduction"]


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_counts_samples_and_reduction_are_taken_by_keyword_only(case):
    loss = case.make(reduction="mean")
    assert loss.reduction == "mean"
    n_own = len(loss_options(case.name)) - 1
    with pytest.raises(TypeError):
        case.registration.loss(*[0] * n_own, [1, 2])


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_a_loss_without_counts_works_or_says_that_it_needs_them(case):
    try:
        loss = case.registration.loss()
    except ValueError as error:
        assert "class_counts" in str(error)
    else:
        assert torch.isfinite(loss(torch.zeros(2, 4), torch.eye(4)[:2]))


@pytest.mark.parametrize(
    ("name", "options", "buffer"),
    [
        ("asl", {"class_weights": "prevalence"}, "positive_weight"),
        ("ldam", {}, "margin"),
        ("db", {}, "shift"),
    ],
)
def test_class_counts_are_put_in_column_order_by_name(name, options, buffer):
    common = {"classes": list(COUNTS), "n_samples": 60} | options
    straight = create_loss(name, class_counts=COUNTS, **common)
    turned = create_loss(name, class_counts=dict(reversed(COUNTS.items())), **common)
    other = create_loss(name, class_counts=dict.fromkeys(COUNTS, 5), **common)
    assert torch.equal(getattr(straight, buffer), getattr(turned, buffer))
    assert not torch.equal(getattr(straight, buffer), getattr(other, buffer))


@pytest.mark.parametrize(
    ("name", "counts", "options", "sentence"),
    [
        ("asll", {"a": 1}, {}, "did you mean 'asl'.*known: apl, asl, balanced_softmax"),
        ("asl", {"a": 1}, {"gama_neg": 2}, "did you mean 'gamma_neg'.*its options: gamma_neg, gamma_pos"),
        ("asl", {}, {}, r"missing \['a'\]"),
        ("asl", {"a": 1, "b": 2}, {}, r"unknown \['b'\]"),
        ("asl", {"a": 1}, {"reduction": "average"}, "choose one of mean, batchmean, sum"),
        ("asl", {"a": 1}, {"class_weights": "effective"}, "choose one of none, prevalence"),
        ("asl", {"a": 1}, {"gamma_neg": -1}, "gamma_neg=-1 must be >= 0"),
        ("asl", {"a": 1}, {"clip": 1}, r"clip=1 must be in \[0, 1\)"),
        ("asl", {"a": 11}, {"class_weights": "prevalence"}, "between 0 and n_samples=10"),
        ("bce", {"a": 1}, {"pos_weight": -1}, "pos_weight must be"),
        ("focal", {"a": 1}, {"alpha": 2}, r"alpha=2 must be in \[0, 1\]"),
        ("hill", {"a": 1}, {"hill_lambda": 1.4}, "raises confident negatives"),
        ("ral", {"a": 1}, {"form": "code"}, "choose one of paper, released"),
        ("ral", {"a": 1}, {"hill_lambda": 0.5}, "hill_lambda=0.5 must be >= 1"),
        ("class_aware", {"a": 1}, {"base": 1}, r"base=1 must be in \(0, 1\)"),
        ("db", {"a": 1}, {"neg_scale": 0}, "neg_scale=0 must be > 0"),
        ("db", {"a": -1}, {}, "between 0 and n_samples=10"),
        ("ce", {"a": 1}, {"label_smoothing": 1}, "label_smoothing=1"),
        ("ldam", {"a": 1}, {"scale": 0}, "scale=0 must be > 0"),
        ("ldam", {"a": 1}, {"class_weights": "margins", "reweight_epoch": 5}, "no reweight_epoch"),
        ("ldam", {"a": -1}, {}, "one number >= 0"),
        ("lmf", {"a": 1}, {"alpha": -1}, "alpha=-1 must be >= 0"),
        ("logit_adjusted", {"a": 1}, {"tau": -1}, "tau=-1 must be >= 0"),
    ],
)
def test_a_wrong_name_option_value_or_class_is_an_error_that_names_the_right_one(
    name, counts, options, sentence
):
    with pytest.raises(ValueError, match=sentence):
        create_loss(name, classes=["a"], class_counts=counts, n_samples=10, **options)


@pytest.mark.parametrize("ids", [[0, 4], [-1, 0], [0.5, 1.0]], ids=str)
def test_a_class_id_that_names_no_class_is_an_error(ids):
    with pytest.raises(ValueError, match="integers from 0 to 3; 1 are not"):
        CrossEntropy()(torch.zeros(2, 4), torch.tensor(ids))


def test_a_single_label_loss_needs_two_classes():
    with pytest.raises(ValueError, match="c >= 2"):
        CrossEntropy()(torch.zeros(2, 1), torch.zeros(2))


def test_a_hill_lambda_below_one_and_a_half_would_raise_confident_negatives():
    loss = HillLoss()
    loss.hill_lambda = 1.4
    z = torch.linspace(0, 10, 50)[:, None]
    assert (loss.negative(z).diff(dim=0) < 0).any()


def test_set_epoch_does_not_change_a_loss_without_a_schedule():
    loss, logits = LDAMLoss(class_counts=[5, 1]), torch.tensor([[0.1, 0.3]])
    before = loss(logits, torch.tensor([0]))
    loss.set_epoch(7)
    assert loss(logits, torch.tensor([0])) == before


def test_losses_import_only_torch():
    code = (
        "import sys, cxrlt.losses; "
        "ours = [m for m in sys.modules if m.startswith('cxrlt.') and not m.startswith('cxrlt.losses')]; "
        "theirs = [m for m in ('timm', 'pandas', 'accelerate', 'pydantic') if m in sys.modules]; "
        "sys.exit(f'{ours} {theirs}' if ours or theirs else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_focal_alpha_can_be_zero_or_one():
    logits, targets = torch.tensor([[0.3, -1.2]]), torch.tensor([[1.0, 0.0]])
    for alpha, of_one in ((0, [0, 1]), (1, [1, 0])):
        entries = FocalLoss(alpha=alpha).elementwise(logits, targets)
        assert torch.equal(entries, FocalLoss().elementwise(logits, targets) * torch.tensor([of_one]))
    with pytest.raises(ValueError, match=r"alpha=-0\.1 must be in"):
        FocalLoss(alpha=-0.1)


@pytest.mark.parametrize("epoch", [-1, 0, 1])
def test_without_set_epoch_a_loss_is_that_of_epoch_0(epoch):
    loss, logits = LDAMLoss(class_counts=[500, 1], reweight_epoch=epoch), torch.tensor([[0.1, 0.3]])
    untold = loss.per_class(logits)
    loss.set_epoch(0)
    assert torch.equal(loss.per_class(logits), untold)


def test_class_ids_are_checked_only_on_the_cpu():
    """The check would make the device wait; "meta" holds no numbers to look at."""
    assert label_matrix(torch.zeros(2, device="meta"), 4).shape == (2, 4)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_a_variant_differs_from_the_defaults_in_every_option_it_names(case):
    own = inspect.signature(case.registration.loss).parameters
    at_defaults = [
        option
        for variant in case.registration.variants
        for option, value in variant.items()
        if own[option].default == value
    ]
    assert at_defaults == []


MINE = """
from cxrlt.losses import MultiLabelLoss, loss
from cxrlt.losses.binary import BinaryCrossEntropy


@loss("tripled", neutral=None)
class Tripled(BinaryCrossEntropy):
    def sums(self, logits, targets):
        return 3 * super().sums(logits, targets)
"""


@pytest.fixture
def tripled(add_module):
    """A loss in a module of its own."""
    add_module("my_losses", MINE, LOSSES)


def test_a_loss_of_another_module_is_known_by_its_name(tripled):
    logits, targets = torch.randn(5, len(COUNTS)), torch.ones(5, len(COUNTS))
    mine, usual = (
        create_loss(name, classes=list(COUNTS), class_counts=COUNTS, n_samples=50)
        for name in ("tripled", "bce")
    )
    assert torch.isclose(mine(logits, targets), 3 * usual(logits, targets))
    assert "tripled" in loss_names("multi_label")
    assert "tripled" not in loss_names("single_label")
    assert loss_options("tripled") == loss_options("bce")


def test_two_losses_with_one_name_are_refused(tripled):
    with pytest.raises(ValueError, match="two losses have the name 'tripled'"):
        loss("tripled", neutral=None)(CrossEntropy)
