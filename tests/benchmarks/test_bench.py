"""What a benchmark's figures mean, how they are printed, and that none is lost."""

import json

import numpy as np
import pytest

from benchmarks import bench as module
from benchmarks.__main__ import main
from benchmarks.bench import BENCHMARKS, Benchmark, bench
from benchmarks.clock import race, run_command
from benchmarks.growth import Growth, growth
from benchmarks.report import HEADER, growth_lines, row_lines
from benchmarks.rows import Mark, Row
from benchmarks.synthetic import long_tailed, patients
from cxrlt.errors import UserError
from refusal import says

FASTER = Row("loader", 600, "images/s", Mark("PIL", 50), 12, Mark("one warp", 800))
SMALLER = Row("memory", 1.1e9, "bytes", Mark("a tenth of the images", 1e9), 1.05, lower_is_better=True)
ALONE = Row("help", 0.4, "s", target=0.5, limit=Mark("python", 0.1), lower_is_better=True)


def test_a_rate_is_better_the_higher_it_is():
    assert FASTER.ratio == 12
    assert FASTER.reached
    assert FASTER.share_of_limit == 0.75


def test_a_cost_is_better_the_lower_it_is():
    assert SMALLER.ratio == pytest.approx(1.1)
    assert not SMALLER.reached


def test_without_an_alternative_the_target_is_for_the_figure_itself():
    assert ALONE.ratio is None
    assert ALONE.reached
    assert ALONE.share_of_limit == pytest.approx(0.25)


def test_without_a_target_nothing_is_reached_or_missed():
    assert Row("x", 1, "s").reached is None


def test_a_wrong_result_never_reaches_its_target_and_is_shown():
    wrong = Row("metrics", 600, "rows/s", Mark("scikit-learn", 1), 2, wrong="AP differs by .1")
    assert not wrong.reached
    text = "\n".join(row_lines(wrong))
    assert "MISSED" in text
    assert "WRONG: AP differs by .1" in text


def test_a_line_stands_below_its_header_and_says_all():
    first, second = row_lines(FASTER)
    assert len(first) <= len(HEADER)
    for words in ("loader", "600 images/s", "50 images/s", "12x", ">= 12x ok", "800 images/s", "75%"):
        assert words in first
    assert second.strip() == "against PIL; limit: one warp"


def test_ways_take_turns_and_the_least_counts():
    now, seen = [0.0], []

    def way(name, *costs):
        left = list(costs)

        def run():
            seen.append(name)
            now[0] += left.pop(0)

        return run

    least = race(way("a", 3, 1, 2), way("b", 5, 6, 4), repeats=3, clock=lambda: now[0])
    assert seen == ["a", "b"] * 3
    assert least == (1, 4)


def test_the_exponent_is_that_of_a_power_law():
    sizes = (10, 20, 40, 80)
    for exponent in (1.0, 2.0):
        seconds = tuple(3e-4 * size**exponent for size in sizes)
        assert Growth("x", "row", sizes, seconds).exponent == pytest.approx(exponent)


def test_growth_is_measured_at_four_doublings_without_the_preparation():
    now = [0.0]

    def prepare(size):
        now[0] += 1000

        def run():
            now[0] += size**2

        return run

    found = growth("x", "row", 5, prepare, clock=lambda: now[0])
    assert found.sizes == (5, 10, 20, 40)
    assert found.seconds == (25, 100, 400, 1600)
    (line,) = growth_lines(found)
    assert "rows^2.00" in line
    assert "TOO HIGH" in line


def test_a_command_is_measured_as_a_whole():
    used = run_command(["--help"])
    assert 0 < used.processor < 60
    assert 0 < used.seconds < 600
    assert 10e6 < used.peak_bytes < 10e9


def test_the_memory_of_a_command_is_its_own():
    held = np.ones(400_000_000, dtype=np.uint8)  # a child that is forked here has it too, for a moment
    assert run_command(["--help"]).peak_bytes < held.nbytes


def test_a_command_that_fails_says_why():
    with pytest.raises(UserError, match="ended with 2: cxrlt"):
        run_command(["evaluate", "--challenge", "nothing-of-the-kind"])


def test_labels_have_a_long_tail_and_scores_that_know_something():
    targets, scores = long_tailed(20_000, {"head": 500, "tail": 5}, 1000)
    assert targets.shape == scores.shape == (20_000, 2)
    assert targets.mean(axis=0) == pytest.approx([0.5, 0.005], rel=0.2)
    for target, score in zip(targets.T, scores.T, strict=True):
        assert score[target == 1].mean() > score[target == 0].mean() + 1


def test_patients_have_many_images_or_few():
    found = patients(10_000, 2_000)
    _, counts = np.unique(found, return_counts=True)
    assert found.max() < 2_000
    assert counts.max() > 3 * np.median(counts)


@pytest.fixture
def stages(monkeypatch):
    """Two stages in place of the real ones: one with a figure, one that fails."""

    def broken(setting):
        raise UserError("no room")
        yield

    def good(setting):
        (setting.folder / "file").write_text("x")
        yield FASTER

    fitted = Growth("good", "row", (1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0))
    fake = {"good": Benchmark(good, lambda setting: fitted), "broken": Benchmark(broken)}
    monkeypatch.setattr(module, "BENCHMARKS", fake)


def test_figures_are_written_also_if_a_later_stage_fails(stages, tmp_path):
    with pytest.raises(UserError, match="no room"):
        bench((), tmp_path / "work", quick=True, scaling=False, json_path=tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["stage"] for row in found["rows"]] == ["loader"]
    assert found["rows"][0]["ratio"] == 12
    assert found["machine"]["cores"] >= 1
    assert found["quick"] is True


def test_nothing_is_left_behind(stages, tmp_path):
    assert bench(("good",), tmp_path, quick=False, scaling=False, json_path=None)
    assert list(tmp_path.iterdir()) == []


def test_scaling_measures_those_that_grow(stages, tmp_path, capsys):
    assert bench((), tmp_path, quick=True, scaling=True, json_path=tmp_path / "found.json")
    assert "good: cost ~ rows^1.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["growth"][0]["exponent"] == pytest.approx(1)


def test_a_stage_that_is_not_there_is_refused_with_the_one_that_may_be_meant(capsys):
    with pytest.raises(SystemExit) as error:
        main(["loadr"])
    assert error.value.code == 2
    says(capsys.readouterr().err, "loadr", "did you mean loader?")


def test_help_names_every_stage(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    says(" ".join(capsys.readouterr().out.split()), *BENCHMARKS, "2 %")


def test_a_wrong_result_is_the_exit_code(monkeypatch, tmp_path):
    def wrong(setting):
        yield Row("metrics", 1, "rows/s", wrong="differs")

    monkeypatch.setattr(module, "BENCHMARKS", {"metrics": Benchmark(wrong)})
    with pytest.raises(SystemExit) as error:
        main(["metrics", "--folder", str(tmp_path)])
    assert "differs" in error.value.code  # a text is exit code 1
