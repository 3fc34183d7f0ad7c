import dataclasses
import re

import pandas as pd
import pytest

from cxrlt.cli import main, parse
from cxrlt.experiments.lists.tricks import SINGLE_IMAGE_PREDICTION, TRICKS, register_trick
from cxrlt.experiments.variants import Context, why_not_applicable
from cxrlt.recipe import differing_fields, load_recipe, override_recipe
from cxrlt.training.tta import NO_TTA

BASE = override_recipe(load_recipe("demo_resnet"), dict(SINGLE_IMAGE_PREDICTION))
CHANGES = {
    "ml_decoder": {"model.head.name"},
    "csra": {"model.head.name"},
    "gem": {"model.pool"},
    "attention": {"model.pool"},
    "repeat_factor": {"data.sampling.kind"},
    "class_balanced": {"data.sampling.kind"},
    "mosaic": {"data.mix.kinds"},
    "mixup": {"data.mix.kinds"},
    "cutmix": {"data.mix.kinds"},
    "lower_lr": {"optim.lr"},
    "higher_lr": {"optim.lr"},
    "longer": {"schedule.epochs"},
    "soup": {"soup.kind"},
    "rising": {"schedule.epochs", "schedule.stages"},
    "fusion": {"model.frozen", "model.pool", "model.fusion.max_images"},
    "fusion_decoder": {"model.frozen", "model.head.name", "model.fusion.max_images"},
    "crt": {"model.frozen", "model.new_head", "data.sampling.kind"},
    "flip": {"predict.tta.flip"},
    "scales": {"predict.tta.scales"},
    "crops": {"predict.tta.crop"},
    "study_mean": {"predict.study_mean"},
    "view_weights": {"predict.study_mean"},
    "gate": {"predict.gate"},
}


def table(**columns):
    usual = {
        "patient": ["a", "a", "b", "b"],
        "study": ["s", "s", "t", "t"],
        "view": ["frontal", "lateral", "frontal", "frontal"],
        "Mass": [1.0, 1.0, 0.0, 0.0],
        "No Finding": [0.0, 0.0, 1.0, 1.0],
    }
    return pd.DataFrame({**usual, **columns}, index=["1", "2", "3", "4"])


@pytest.fixture
def challenge(source):
    return dataclasses.replace(source.challenge, train_counts={"Mass": 2, "No Finding": 2}, train_images=4)


def excluded(context):
    return {name for name, variant in TRICKS.items() if why_not_applicable(variant, context)}


def test_base_predicts_every_image_once():
    assert BASE.predict.tta == NO_TTA
    assert override_recipe(BASE, dict(SINGLE_IMAGE_PREDICTION)) == BASE


@pytest.mark.parametrize("name", [name for name, variant in TRICKS.items() if variant.recipe(BASE) != BASE])
def test_a_trick_changes_only_the_fields_of_its_name(name):
    recipe = TRICKS[name].recipe(BASE)
    fields = {field.partition(":")[0] for field in differing_fields(BASE, recipe)}
    if name.startswith("augment_"):
        assert all(field.startswith("data.augment.") for field in fields)
        assert recipe.data.augment.flip == BASE.data.augment.flip
    else:
        assert fields == CHANGES[name]


@pytest.mark.parametrize(("size", "small"), [(512, 352), (384, 256), (96, 64), (64, 32)])
def test_rising_resolution_has_as_many_epochs_at_two_thirds_of_the_size_first(size, small):
    base = override_recipe(BASE, {"data": {"size": size}, "schedule": {"epochs": 9}})
    recipe = TRICKS["rising"].recipe(base)
    (stage,) = recipe.schedule.stages
    assert (stage.size, stage.epochs, recipe.schedule.epochs) == (small, 4, 5)
    assert recipe.data.size == size


def test_all_tricks_fit_a_challenge_with_studies_views_and_a_class_for_no_finding(challenge):
    assert excluded(Context(challenge, table(), BASE)) == set()


def test_tricks_over_studies_need_studies_of_several_images_with_the_same_labels(challenge):
    over_studies = {"fusion", "fusion_decoder", "study_mean", "view_weights"}
    alone = table(study=["s", "t", "u", "v"])
    disputed = table(Mass=[1.0, 0.0, 0.0, 0.0])
    for rows in (alone, disputed):
        assert excluded(Context(challenge, rows, BASE)) == over_studies
    assert excluded(Context(challenge, table(view=["frontal"] * 4), BASE)) == {"view_weights"}


def test_tricks_fitted_on_other_folds_need_all_folds(challenge):
    fitted = {"view_weights", "calibrate", "thresholds"}
    fitted |= {"mean", "greedy", "per_class", "stack", "context"}
    assert excluded(Context(challenge, table(), BASE, all_folds=False)) == fitted


def test_a_gate_needs_a_class_for_no_finding(challenge):
    other = dataclasses.replace(challenge, train_counts={"Mass": 2, "Mass 2": 2})
    assert excluded(Context(other, table().rename(columns={"No Finding": "Mass 2"}), BASE)) == {"gate"}


def test_per_class_tricks_need_a_multi_label_task(challenge):
    single = dataclasses.replace(challenge, task="single_label", metric="macro-F1")
    by_class = {"gate", "calibrate", "thresholds", "per_class", "stack", "context"}
    assert excluded(Context(single, table(), BASE)) == by_class


def test_flip_needs_training_with_flips_and_classes_without_a_side(challenge):
    still = override_recipe(BASE, {"data": {"augment": {"flip": False}}})
    assert excluded(Context(challenge, table(), still)) == {"flip"}
    sided = dataclasses.replace(challenge, train_counts={"Mass left": 2, "No Finding": 2})
    rows = table().rename(columns={"Mass": "Mass left"})
    assert excluded(Context(sided, rows, BASE)) == {"flip"}


def test_a_trick_that_the_recipe_already_uses_is_excluded(challenge):
    gem = override_recipe(BASE, {"model": {"pool": "gem"}, "data": {"augment": {"policy": "light"}}})
    assert excluded(Context(challenge, table(), gem)) == {"gem", "augment_light"}
    assert "rising" in excluded(
        Context(challenge, table(), override_recipe(BASE, {"schedule": {"epochs": 1}}))
    )


def test_a_recipe_that_cannot_have_a_trick_says_why(challenge):
    frozen = override_recipe(BASE, {"model": {"frozen": True}})
    why = why_not_applicable(TRICKS["mosaic"], Context(challenge, table(), frozen))
    assert why == "data.mix mixes single images: it cannot be combined with model.frozen or model.fusion"


def test_tricks_are_named_on_the_command_line():
    command = parse(["compare", "tricks", "demo", "--tricks", "flip", "gem", "--recipe", "demo_resnet"])
    assert (command.kind, command.plan.tricks) == ("tricks", ("flip", "gem"))


MINE = """
from cxrlt.experiments.lists.tricks import register_trick


def small_table(context):
    return None if len(context.table) < 1000 else "there are many images"


register_trick("heavy", "more weight decay", {"optim": {"weight_decay": 0.2}}, requirements=[small_table])
"""


@pytest.fixture
def heavy(add_module):
    """Register a trick in another module."""
    add_module("my_tricks", MINE, TRICKS)


def command_of(source, *arguments):
    folders = ["--root", str(source.workspace.root), "--name", "mine", "--workers", "1"]
    return ["compare", "tricks", "csv", "--seeds", "1", "--folds", "0", *folders, *arguments]


@pytest.mark.slow
def test_a_trick_of_another_module_is_compared_and_named(source, heavy, make_tricks_plan, capsys):
    recipe = make_tricks_plan().recipe
    main(command_of(source, "--recipe", recipe, "--tricks", "heavy"))
    out = capsys.readouterr().out
    assert "compare-" not in out.split(" on csv: heavy")[0]
    assert re.search(r"^\| heavy \| 0\.", out, flags=re.M)
    rows = pd.read_csv(source.workspace.submission_dir("csv", "mine") / "results.csv")
    assert list(rows["trick"]) == ["base", "heavy"]
    assert list(rows["what"].fillna("")) == ["", "more weight decay"]
    with pytest.raises(SystemExit) as ended:
        main(command_of(source, "--recipe", recipe, "--tricks", "heavi"))
    assert ended.value.code == 2
    assert "heavi: the tricks are ml_decoder, " in (error := capsys.readouterr().err)
    assert error.rstrip().endswith("context, heavy.")


@pytest.mark.parametrize("name", ["flip", "base"])
def test_two_tricks_of_one_name_are_refused(name):
    with pytest.raises(ValueError, match=f"the trick '{name}' is already registered"):
        register_trick(name, "the same name")
