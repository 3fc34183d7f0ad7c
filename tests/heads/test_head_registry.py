"""A head is registered where it is defined, and nowhere else."""

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cxrlt.heads
from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.heads import HEADS, create_head, head, head_names
from cxrlt.heads.linear import CosineHead
from cxrlt.heads.pools import AveragePool
from cxrlt.heads.registry import _CLASSES, _declared_heads
from cxrlt.models.backbone import create_model, require_head_options
from cxrlt.recipe import HeadConfig, Recipe, load_recipe, override_recipe, save_recipe
from cxrlt.training.train import TrainPlan, train
from tiny import load_weights, make_tiny, tiny_recipe
from user_errors import raises_user_error

MINE = """
from torch import nn

from cxrlt.heads import head


@head("wide", about="a hidden layer", cosines=False)
class WideHead(nn.Module):
    bias = None

    def __init__(self, dim, n_classes, pool, drop_rate=0.0, *, width: int = 6):
        super().__init__()
        self.pool = pool
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, n_classes))

    def forward(self, features, mask=None):
        return self.layers(self.pool(features, mask))
"""


@pytest.fixture
def wide(add_module):
    """A head in its own module."""
    add_module("my_head", MINE, HEADS, _CLASSES)


def test_a_head_of_another_module_is_trained_by_a_recipe(wide, tmp_path):
    source = make_tiny(tmp_path, n_patients=12, n_folds=2)
    (tmp_path / "mine.yaml").write_text("model: {head: {name: wide, width: 5}}\nschedule: {epochs: 1}\n")
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), tmp_path / "base.yaml")
    recipe = load_recipe(str(tmp_path / "base.yaml"), tmp_path / "mine.yaml")
    (job,) = train(source, TrainPlan("wide", recipe, folds=(0,)))
    assert load_weights(job)["head.layers.0.weight"].shape[0] == 5
    assert load_recipe(None, job.run_dir / "config.yaml").model.head == recipe.model.head
    command = cli.parse(
        ["train", str(tmp_path / "base.yaml"), "--model.head.name=wide", "--model.head.width", "7"]
    )
    assert command.fields.model.head == HeadConfig(name="wide", options={"width": 7})
    assert "wide" in head_names()


def test_two_heads_of_one_name_are_refused(wide):
    for name in ("wide", "csra"):
        with pytest.raises(ValueError, match=f"two heads have the name '{name}'"):
            head(name, about="")(CosineHead)


def test_what_is_read_in_the_source_is_what_the_modules_register():
    for module in pkgutil.iter_modules(cxrlt.heads.__path__):
        importlib.import_module(f"cxrlt.heads.{module.name}")
    assert {name: entry for name, (_, entry) in _declared_heads().items()} == HEADS
    assert sorted(_CLASSES) == head_names()


@pytest.mark.parametrize("name", head_names())
def test_a_head_gives_a_logit_per_class_and_cosines_where_it_says_so(name):
    features = 9 * torch.randn(4, 5, 16)
    made = create_head(name, {}, 16, 3, pool=AveragePool)
    logits = made(features, torch.ones(4, 5, dtype=torch.bool))
    assert logits.shape == (4, 3)
    made.requires_grad_(False)
    for parameter in made.parameters():
        parameter *= 100
    assert not HEADS[name].cosines or made(features).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("{name: csr}", r"head 'csr' is not known \(did you mean 'csra'\?\); known: cosine, csra"),
        (
            "{name: csra, wight: 1}",
            r"head 'csra' has no option 'wight' \(did you mean 'weight'\?\); its options: weight",
        ),
        ("{name: csra, options: 3}", "model.head.options: Input should be a valid dictionary"),
        ("[csra]", "model.head: Input should be a valid dictionary"),
        ("{weight: 1}", "head 'linear' has no option 'weight'; it has no options"),
        ("{name: ml_decoder, dim: 2.5}", "option 'dim' of head 'ml_decoder' must be int, not 2.5"),
        ("{name: ml_decoder, dim: yes}", "option 'dim' of head 'ml_decoder' must be int, not True"),
        ("csra", "model.head: csra must now be written as model.head: {name: csra}"),
    ],
)
def test_a_wrong_head_in_a_file_is_a_sentence_that_names_the_right_one(values, sentence, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"model: {{head: {values}}}\n")
    with pytest.raises(UserError, match=rf"mine\.yaml: {sentence}"):
        load_recipe(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("old", "new"),
    [("csra_lambda", "weight"), ("decoder_dim", "dim"), ("decoder_heads", "n_heads")],
)
def test_an_old_name_of_a_head_option_is_an_error_that_names_the_new_one(old, new, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(f"model: {{{old}: 8}}\n")
    with pytest.raises(SystemExit) as raised:
        cli.main(["train", str(tmp_path / "mine.yaml")])
    assert raised.value.code == 2
    assert f"model.{old} has been renamed to model.head.{new}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "ml_decoder", "dim": 30}, "dim=30 must be at least 8 and a multiple of n_heads=8"),
        ({"name": "ml_decoder", "n_heads": 0}, "multiple of n_heads=0"),
        ({"name": "csra", "weight": -1}, "weight=-1 must be >= 0"),
    ],
)
def test_an_option_out_of_range_is_found_before_anything_is_trained(options, sentence, tmp_path):
    cfg = tiny_recipe(**{"model.head": options}).model
    with raises_user_error(sentence):
        require_head_options(cfg)
    with raises_user_error(sentence):
        create_model(cfg, 3, 32)
    with raises_user_error(sentence):
        train(None, TrainPlan("any", tiny_recipe(**{"model.head": options})))


def test_another_head_does_not_inherit_options():
    csra = override_recipe(Recipe(), {"model": {"head": {"name": "csra", "weight": 0.3}}})
    assert override_recipe(csra, {"model": {"head": {"name": "ml_decoder"}}}).model.head.options == {}
    assert override_recipe(csra, {"model": {"grid": 4}}).model.head == csra.model.head
    assert override_recipe(csra, {"model": {"head": {"weight": 0.5}}}).model.head.options == {"weight": 0.5}


def test_the_help_of_train_lists_the_heads_and_their_options(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["train", "best_cxrlt2023", "--help"])
    text = " ".join(re.sub(r"[│─]", " ", capsys.readouterr().out).split())
    assert "csra: class-specific residual attention (--model.head.weight 0.1)" in text
    assert "head.options" not in text


def test_flags_name_a_head_and_its_options():
    def parsed(*words):
        return cli.parse(["train", "best_cxrlt2023", *words]).fields.model.head

    assert parsed("--model.head.n-heads", "4").options == {"dim": 768, "n_heads": 4}
    assert parsed("--model.head.name", "csra", "--model.head.weight=1e-1").options == {"weight": 0.1}
    assert parsed("--model.head.name", "linear").options == {}
    with pytest.raises(UserError, match="has no option 'weight'; its options: dim, n_heads"):
        parsed("--model.head.weight", ".1")


def test_heads_are_known_without_waiting_for_torch_and_need_nothing_else_of_the_package():
    code = (
        "import sys, cxrlt.heads; assert 'csra' in cxrlt.heads.head_names(); "
        "assert 'torch' not in sys.modules; "
        "import cxrlt.heads.csra, cxrlt.heads.linear, cxrlt.heads.ml_decoder; "
        "ours = [m for m in sys.modules if m.startswith('cxrlt.') and not m.startswith('cxrlt.heads')]; "
        "sys.exit(str(ours) if ours or 'timm' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_cookbook_lists_every_head_with_its_options():
    text = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text(encoding="utf-8")
    for name, entry in HEADS.items():
        options = ", ".join(f"`{option}` {value}" for option, value in entry.options.items())
        row = re.search(rf"^\| `{name}` \| (.*?) ?\| (.*) \|$", text, re.M)
        assert row[1] == options
        assert row[2].startswith(entry.about)
