import numpy as np
import pytest

from cxrlt.inputs.dataset import micro_batches_of_rank
from cxrlt.inputs.sampling import epoch_batches, row_weights
from cxrlt.recipe import SamplingConfig

NAN = np.nan


def weights_of(targets: list[list[float]], kind: str, **options: float) -> np.ndarray | None:
    return row_weights(np.array(targets, np.float32), SamplingConfig(kind=kind, **options))


def draws_of(n_rows: int, weights: np.ndarray | None, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return np.concatenate(epoch_batches(n_rows, 8, seed, epoch, weights))


def long_tailed(n_rows: int = 400) -> np.ndarray:
    return (np.random.default_rng(0).random((n_rows, 4)) < (0.4, 0.1, 0.02, 0.005)).astype(np.float32)


def test_uniform_draws_are_the_permutation_of_seed_and_epoch():
    expected = np.random.default_rng([3, 5]).permutation(23)
    np.testing.assert_array_equal(draws_of(23, None, seed=3, epoch=5), expected)
    assert weights_of([[0, 1], [1, 0]], "uniform") is None


def test_a_rare_class_is_repeated_by_the_root_of_threshold_over_its_share():
    targets = [[1, 0]] * 96 + [[1, 1]] * 4
    weights = weights_of(targets, "repeat_factor", threshold=0.16)
    np.testing.assert_allclose(weights, [1.0] * 96 + [2.0] * 4)


def test_the_rarest_of_an_images_classes_decides_and_the_cap_limits_it():
    targets = np.zeros((400, 3))
    targets[:100, 0], targets[:4, 1], targets[0, 2] = 1, 1, 1
    weights = row_weights(targets, SamplingConfig(kind="repeat_factor", threshold=0.16, cap=5))
    np.testing.assert_allclose(weights[:5], [5, 4, 4, 4, 1])  # sqrt(.16 / .0025) = 8 is above the cap
    np.testing.assert_allclose(weights[100:], 1)


def test_shares_are_among_the_rows_whose_label_is_known():
    targets = [[1]] + [[0]] * 9 + [[NAN]] * 90
    weights = weights_of(targets, "repeat_factor", threshold=0.4)
    np.testing.assert_allclose(weights, [2.0] + [1.0] * 99)


def test_class_balanced_gives_every_class_and_the_images_without_one_the_same():
    targets = [[1, 0]] * 6 + [[0, 1]] * 2 + [[0, 0]] * 4
    weights = weights_of(targets, "class_balanced")
    np.testing.assert_allclose(weights, [1 / 6] * 6 + [1 / 2] * 2 + [1 / 4] * 4)
    single = weights_of([[1, 0]] * 3 + [[0, 1]], "class_balanced")
    np.testing.assert_allclose(single, [1 / 3] * 3 + [1])


def test_classes_without_positives_and_unknown_labels_change_nothing():
    targets = [[1, 0, 0], [1, 0, NAN], [0, NAN, 0], [0, 1, 0]]
    np.testing.assert_allclose(weights_of(targets, "class_balanced"), [0.5, 0.5, 1, 1])
    np.testing.assert_allclose(weights_of([[0, NAN]] * 3, "class_balanced"), 1 / 3)
    np.testing.assert_allclose(weights_of([[0, NAN]] * 3, "repeat_factor"), 1)


@pytest.mark.parametrize("kind", ["repeat_factor", "class_balanced"])
def test_a_soft_label_counts_for_its_part(kind: str):
    rare = [[0.0]] * 60
    hard, soft, none = (weights_of([[value], [1.0], *rare], kind, threshold=0.5)[0] for value in (1, 0.5, 0))
    assert none < soft < hard


@pytest.mark.parametrize("kind", ["repeat_factor", "class_balanced"])
def test_every_row_comes_its_expected_number_of_times_rounded_up_or_down(kind: str):
    targets = long_tailed()
    weights = row_weights(targets, SamplingConfig(kind=kind, threshold=0.2))
    expected = weights * len(weights) / weights.sum()
    assert expected.max() > 1.5
    total = np.zeros(len(weights))
    for epoch in range(200):
        counts = np.bincount(draws_of(len(weights), weights, epoch=epoch) % len(weights), minlength=400)
        assert counts.sum() == len(weights)
        assert ((counts == np.floor(expected)) | (counts == np.ceil(expected))).all()
        total += counts
    np.testing.assert_allclose(total / 200, expected, atol=0.15)


def test_the_copies_of_a_row_are_numbered_from_0_in_one_epoch():
    weights = np.array([5.0, 1, 1, 1, 1, 1])
    draws = draws_of(6, weights)
    copies = sorted(draws[draws % 6 == 0] // 6)
    assert len(copies) in (3, 4) and copies == list(range(len(copies)))
    assert len(set(draws.tolist())) == 6


def test_equal_weights_draw_every_row_once():
    assert sorted(draws_of(101, np.full(101, 0.3))) == list(range(101))


def test_neighbours_in_the_table_are_drawn_independently():
    weights = np.r_[np.full(100, 1.0), np.full(1, 100.0)]  # each of the first 100 in about half of the epochs
    together = np.zeros((2, 2), int)
    for epoch in range(300):
        counts = np.bincount(draws_of(101, weights, epoch=epoch) % 101, minlength=101)
        together[counts[0], counts[1]] += 1
    assert together.min() > 40  # 75 each if independent


def test_the_draws_depend_on_seed_and_epoch_alone_and_not_on_the_batch_size():
    weights = row_weights(long_tailed(), SamplingConfig(kind="class_balanced"))
    runs = {(s, e): tuple(draws_of(400, weights, s, e).tolist()) for s in range(2) for e in range(2)}
    assert len(set(runs.values())) == 4
    for batch_size in (1, 32, 400):
        again = np.concatenate(epoch_batches(400, batch_size, 1, 1, weights))
        assert tuple(again.tolist()) == runs[1, 1]


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_together_see_the_draws_of_one_process(world: int):
    weights = row_weights(long_tailed(101), SamplingConfig(kind="repeat_factor", threshold=0.2))
    for batch in epoch_batches(101, 18, 0, 0, weights):
        shares = [np.concatenate(micro_batches_of_rank(batch, rank, world, 5)) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(shares), batch)
