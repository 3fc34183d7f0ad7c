"""One image alone may leave a BatchNorm a single value per channel: no run begins that would meet one."""

import dataclasses

import pytest

from cxrlt.errors import UserError
from cxrlt.training.batch_size import require_trainable_batches
from cxrlt.training.batches import batch_stream
from cxrlt.training.setup import create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from tiny import load_weights, same_weights, tiny_recipe
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

ONE_PIXEL = {"model.backbone": "test_resnet", "data.size": 32, "schedule.epochs": 1}
"""A BatchNorm network and a size that leaves its last map one pixel."""


def jobs_of(source, name, **over):
    return create_fold_jobs(source, TrainPlan(name, tiny_recipe(**over), folds=(0,)))


def with_rows(job, n_rows):
    """Return the job with its first `n_rows` training rows only."""
    valid_mask = job.data.valid_mask.copy()
    valid_mask[(~valid_mask).nonzero()[0][n_rows:]] = True
    return dataclasses.replace(job, data=dataclasses.replace(job.data, valid_mask=valid_mask))


def require(jobs, world=1):
    accelerator = create_accelerator(jobs[0].recipe)

    class Several:
        """An accelerator of several CPU processes, whose BatchNorm layers are not synchronised."""

        device, num_processes = accelerator.device, world

    require_trainable_batches(jobs, Several())


def test_batches_of_one_image_are_refused_before_anything_is_written(source):
    plan = TrainPlan("alone", tiny_recipe(**ONE_PIXEL, **{"optim.batch_size": 1}))
    with raises_user_error(
        "optim.batch_size 1", "fold 0", "32 rows", "test_resnet", "data.size 32", "--optim.batch-size 2"
    ):
        train(source, plan)
    assert not source.workspace.run_dir("csv", "alone").exists()


@pytest.mark.parametrize(
    "over", [{"data.size": 64}, {"model.backbone": "test_convnext"}, {"model.frozen": True}]
)
def test_batches_of_one_image_go_on_where_they_can(source, over):
    require(jobs_of(source, "can", **(ONE_PIXEL | {"optim.batch_size": 1} | over)))


def test_an_epochs_tail_of_one_image_is_refused_with_a_size_that_leaves_none(source):
    (job,) = jobs_of(source, "tail", **ONE_PIXEL, **{"optim.batch_size": 2})
    require([job])
    with raises_user_error("batch_size 2", "31 rows", "--optim.batch-size 3"):
        require([job, with_rows(job, 31)])
    with raises_user_error("1 rows", "--model.backbone"):
        require([with_rows(job, 1)])


def test_every_process_needs_two_images(source):
    jobs = jobs_of(source, "shared", **ONE_PIXEL, **{"optim.batch_size": 4})
    require(jobs, world=2)
    with raises_user_error("32 rows", "4 processes", "--optim.batch-size 8"):
        require(jobs, world=4)


def test_a_stage_that_cannot_train_is_found_before_the_first(source):
    stages = ({"epochs": 1}, {"epochs": 1, "size": 32})
    over = {**ONE_PIXEL, "data.size": 64, "optim.batch_size": 1, "schedule.stages": stages}
    with pytest.raises(UserError, match=r"in fold 0 stage 2 \(32 rows\).*data\.size 32"):
        train(source, TrainPlan("staged", tiny_recipe(**over), folds=(0,)))
    assert not source.workspace.run_dir("csv", "staged").exists()


def test_studies_of_two_images_are_never_one_image_alone(source):
    fusion = {"model.fusion": {"max_images": 2, "depth": 1, "n_heads": 2, "dim": 16}, "optim.batch_size": 1}
    (job,) = jobs_of(source, "studies", **ONE_PIXEL, **fusion)
    require([job])
    with pytest.raises(UserError, match=r"\(8 rows\)"):
        require([with_rows(job, 15)])


@pytest.mark.parametrize("per_pass", [1, 2])
def test_a_micro_batch_of_one_image_is_joined_to_another(source, per_pass):
    over = ONE_PIXEL | {"optim.batch_size": 7, "optim.max_batch_per_device": per_pass}
    (job,) = jobs_of(source, f"micro-{per_pass}", **over)
    job.run_dir.mkdir(parents=True)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    sizes = [[len(micro) for micro in batch.local_draws] for batch in batch_stream(trainer)]
    assert sizes == [[2, 2, 3][::-1]] * 2 + [[2, 2, 2]] * 3
    assert train(source, TrainPlan(f"micro-{per_pass}", job.recipe, folds=(0,)))[0].is_finished


def test_a_network_that_trains_on_one_image_keeps_its_micro_batches(source):
    over = ONE_PIXEL | {"data.size": 64, "optim.batch_size": 7, "optim.max_batch_per_device": 2}
    (job,) = jobs_of(source, "kept", **over)
    trainer = create_trainer(job, create_accelerator(job.recipe))
    assert [len(micro) for micro in next(batch_stream(trainer)).local_draws] == [2, 2, 2, 1]


def test_micro_batches_of_two_are_the_same_with_and_without_the_limit(source):
    runs = [
        train(
            source,
            TrainPlan(f"limit-{limit}", tiny_recipe(**ONE_PIXEL, **{"optim.max_batch_per_device": limit})),
        )
        for limit in (1, 2)
    ]
    assert same_weights(load_weights(runs[0][0]), load_weights(runs[1][0]))
