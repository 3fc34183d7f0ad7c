"""A run whose numbers are none stops, says where, and leaves nothing that was made of them."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from cxrlt.errors import UserError, listing
from cxrlt.training.batches import epoch_draws
from cxrlt.training.checkpoint import checkpoint_update, list_checkpoints
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import on_each_forward, on_each_update
from sampled_cases import sample_cases
from tiny import load_weights, same_weights, tiny_recipe
from user_errors import assert_mentions

pytestmark = pytest.mark.slow

FIELDS = {"schedule.epochs": 3, "checkpoint_minutes": 1e-9}
STILL = {"flip": False, "crop_scale": (1.0, 1.0), "rotate": 0.0, "brightness": 0.0, "contrast": 0.0}


@contextmanager
def making_non_finite(update: int, what: str) -> Iterator[None]:
    """Make the loss or gradient of an update (counted from 0), or the weights after it, NaN or infinite."""
    passes = []

    def spoil_pass(model, inputs, logits):
        passes.extend([model] * model.training)  # a pass holds the whole batch
        if model.training and len(passes) == update + 1:
            if what == "loss":
                return logits * math.nan
            if what == "gradient":
                logits.register_hook(lambda gradient: gradient * math.inf)
        return None

    def spoil_weights(number, optimizer):
        if what == "weights" and number == update + 1:
            optimizer.param_groups[0]["params"][0].data[0] = math.inf

    with on_each_forward(spoil_pass), on_each_update(spoil_weights, after=True):
        yield


def images_of(source, plan, update: int) -> list[str]:
    (job,) = create_fold_jobs(source, plan)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    epoch, place = divmod(update, 4)
    rows = epoch_draws(trainer, epoch)[place] % len(trainer.dataset)
    return [str(trainer.dataset.ids[row]) for row in sorted(rows)]


@pytest.mark.parametrize("clip_grad", [None, 1.0])
@pytest.mark.parametrize(
    ("what", "update", "said"),
    [
        ("loss", 0, "the loss is nan and the norm of the gradient is nan"),
        ("loss", 6, "the loss is nan and the norm of the gradient is nan"),
        ("gradient", 6, "the norm of the gradient is (inf|nan)"),
        ("gradient", 11, "the norm of the gradient is (inf|nan)"),
        ("weights", 7, "the norm of the weights is (inf|nan)"),
    ],
)
def test_what_is_no_number_is_named_with_all_that_may_explain_it(source, what, update, said, clip_grad):
    name = f"bad-{what}-{update}-{clip_grad}"
    plan = TrainPlan(name, tiny_recipe(**FIELDS, **{"optim.clip_grad": clip_grad}), folds=(0,))
    with making_non_finite(update, what), pytest.raises(UserError) as error:
        train(source, plan)
    sentence = str(error.value)
    run_dir = source.workspace.run_dir("csv", name) / "fold0"
    where = rf"^{run_dir}: {said} at update {update + 1} \(epoch {update // 4 + 1}\), with learning rate "
    assert re.search(where, sentence), sentence
    images = images_of(source, plan, update)
    assert len(images) == 8
    assert_mentions(sentence, listing(images), "--optim.lr", "--optim.clip-grad", "--force")
    good = update // 4 * 4
    kept = [checkpoint_update(path) for path in list_checkpoints(run_dir)]
    assert kept == [at for at in (good, good - 4) if at > 0]
    if good:
        assert_mentions(sentence, f"update {good}", list_checkpoints(run_dir)[0])
    else:
        assert "checkpoint-" not in sentence


def test_the_learning_rate_is_that_of_the_update(source):
    plan = TrainPlan("bad-rate", tiny_recipe(**FIELDS), folds=(0,))
    rates = []

    def record_call(_, optimizer):
        rates.append(max(group["lr"] for group in optimizer.param_groups))

    with making_non_finite(5, "loss"), on_each_update(record_call), pytest.raises(UserError) as error:
        train(source, plan)
    told = re.search(r"learning rate (\S+) on", str(error.value))
    assert told is not None
    assert told[1] == f"{rates[5]:.3g}"
    assert told[1] not in {f"{rates[4]:.3g}", f"{rates[6]:.3g}"}


@pytest.mark.parametrize("update", sample_cases([3, 7]))
def test_nothing_is_made_of_a_bad_update(source, update):
    soup = {"soup": {"kind": "average", "snapshots": 2}, "data.holdout_share": 0.25}
    kinds = {"best": {"predict.weights": "best"}, "souped": soup}
    for kind, over in kinds.items():
        name = f"{kind}-{update}"
        plan = TrainPlan(name, tiny_recipe(**{**FIELDS, "schedule.epochs": 2}, **over), folds=(0,))
        last = (6 if kind == "souped" else 8) * (update + 1) // 8 - 1  # of its epoch
        with making_non_finite(last, "gradient"), pytest.raises(UserError, match="gradient"):
            train(source, plan)
        run_dir = source.workspace.run_dir("csv", name) / "fold0"
        first = update == 3
        assert (run_dir / "log.csv").is_file() != first
        assert (run_dir / "best.safetensors").is_file() == (kind == "best" and not first)
        assert len(list(run_dir.glob("snapshot-*"))) == (kind == "souped" and not first)
        assert not (run_dir / "weights.safetensors").exists()
        (job,) = train(source, plan)  # it was nothing but our doing
        assert job.is_finished


@pytest.mark.parametrize(("update", "noticed"), [(0, 10), (9, 10), (10, 16), (15, 16), (16, 26)])
def test_ten_updates_at_a_time_are_checked_and_the_bad_one_among_them_is_named(source, update, noticed):
    """An epoch has 16. Each check makes a GPU wait; what was updated after the bad one is given up."""
    plan = TrainPlan(f"ten-{update}", tiny_recipe(**{"optim.batch_size": 2}), folds=(0,))
    made = []
    named = rf"update {update + 1} \(epoch {update // 16 + 1}\)"
    counting = on_each_update(lambda number, _: made.append(number))
    with making_non_finite(update, "loss"), counting, pytest.raises(UserError, match=named):
        train(source, plan)
    assert len(made) == noticed


def test_a_clip_that_nothing_reaches_changes_nothing(source):
    """With none the norm is another function's."""
    recipes = {clip: tiny_recipe(**{"optim.clip_grad": clip}) for clip in (1e9, None)}
    (far,), (off,) = (train(source, TrainPlan(f"clip-{c}", r, folds=(0,))) for c, r in recipes.items())
    assert same_weights(load_weights(far), load_weights(off))
    losses = [list(pd.read_csv(job.run_dir / "log.csv")["loss"]) for job in (far, off)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("at_once", [8, 3])
def test_the_loss_of_an_epoch_is_the_mean_over_its_images(source, at_once):
    """Of a network that learns nothing from images that nothing is done to."""
    still = {"loss.name": "bce", "optim.lr": 1e-12, "schedule.epochs": 1, "data.augment": STILL}
    recipe = tiny_recipe(**still, **{"optim.max_batch_per_device": at_once})
    (job,) = train(source, TrainPlan(f"still-{at_once}", recipe, folds=(0,)))
    model = create_initial_model(job, create_fold_loss(job)).eval()
    planes = [
        torch.tensor(job.data.cache.images[row]) for row in job.data.cache.rows_of(list(job.data.train.index))
    ]
    with torch.no_grad():
        logits = model({"images": torch.stack(planes)[:, None]})
    labels = torch.tensor(job.data.targets(job.data.train))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    (loss,) = pd.read_csv(job.run_dir / "log.csv")["loss"]
    assert loss == pytest.approx(expected.item() * len(job.data.classes), rel=1e-4)  # it adds classes up
