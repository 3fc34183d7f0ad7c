"""Meaning and printing of benchmark results, and that none is lost."""

import json

import numpy as np
import pytest

from benchmarks import run_benchmarks as module
from benchmarks.__main__ import main
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.report import HEADER, format_measurement, format_scaling
from benchmarks.run_benchmarks import BENCHMARKS, Benchmark, run_benchmarks
from benchmarks.scaling import ScalingResult, measure_scaling
from benchmarks.synthetic import make_long_tailed, make_patients
from benchmarks.timing import measure_command, time_interleaved
from cxrlt.errors import UserError
from user_errors import assert_mentions

FASTER = Measurement(
    "loader", 600, "images/s", ReferenceValue("PIL", 50), 12, ReferenceValue("one warp", 800)
)
SMALLER = Measurement(
    "memory", 1.1e9, "bytes", ReferenceValue("a tenth of the images", 1e9), 1.05, lower_is_better=True
)
ALONE = Measurement("help", 0.4, "s", target=0.5, limit=ReferenceValue("python", 0.1), lower_is_better=True)


def test_a_rate_is_better_the_higher_it_is():
    assert FASTER.ratio == 12
    assert FASTER.meets_target
    assert FASTER.share_of_limit == 0.75


def test_a_cost_is_better_the_lower_it_is():
    assert SMALLER.ratio == pytest.approx(1.1)
    assert not SMALLER.meets_target


def test_without_an_alternative_the_target_is_for_the_figure_itself():
    assert ALONE.ratio is None
    assert ALONE.meets_target
    assert ALONE.share_of_limit == pytest.approx(0.25)


def test_without_a_target_nothing_is_reached_or_missed():
    assert Measurement("x", 1, "s").meets_target is None


def test_a_wrong_result_never_reaches_its_target_and_is_shown():
    faulty = Measurement(
        "metrics", 600, "rows/s", ReferenceValue("scikit-learn", 1), 2, error="AP differs by .1"
    )
    assert not faulty.meets_target
    text = "\n".join(format_measurement(faulty))
    assert "MISSED" in text
    assert "WRONG: AP differs by .1" in text


def test_a_line_fits_its_header_and_has_every_value():
    first, second = format_measurement(FASTER)
    assert len(first) <= len(HEADER)
    for words in ("loader", "600 images/s", "50 images/s", "12x", ">= 12x ok", "800 images/s", "75%"):
        assert words in first
    assert second.strip() == "baseline: PIL; limit: one warp"


def test_functions_take_turns_and_the_fastest_time_counts():
    now, seen = [0.0], []

    def function(name, *costs):
        left = list(costs)

        def run():
            seen.append(name)
            now[0] += left.pop(0)

        return run

    minimum = time_interleaved(
        function("a", 3, 1, 2), function("b", 5, 6, 4), repeats=3, clock=lambda: now[0]
    )
    assert seen == ["a", "b"] * 3
    assert minimum == (1, 4)


def test_the_exponent_is_that_of_a_power_law():
    sizes = (10, 20, 40, 80)
    for exponent in (1.0, 2.0):
        seconds = tuple(3e-4 * size**exponent for size in sizes)
        assert ScalingResult("x", "row", sizes, seconds).exponent == pytest.approx(exponent)


def test_growth_is_measured_at_four_doublings_without_the_preparation():
    now = [0.0]

    def prepare(size):
        now[0] += 1000

        def run():
            now[0] += size**2

        return run

    results = measure_scaling("x", "row", 5, prepare, clock=lambda: now[0])
    assert results.sizes == (5, 10, 20, 40)
    assert results.seconds == (25, 100, 400, 1600)
    (line,) = format_scaling(results)
    assert "rows^2.00" in line
    assert "TOO HIGH" in line


def test_a_command_is_measured_as_a_whole():
    used = measure_command(["--help"])
    assert 0 < used.cpu_seconds < 60
    assert 0 < used.seconds < 600
    assert 10e6 < used.peak_memory_bytes < 10e9


def test_the_memory_of_a_command_is_its_own():
    held = np.ones(400_000_000, dtype=np.uint8)  # a child that is forked here has it too, for a moment
    assert measure_command(["--help"]).peak_memory_bytes < held.nbytes


def test_a_command_that_fails_says_why():
    with pytest.raises(UserError, match="exited with code 2: cxrlt"):
        measure_command(["evaluate", "--challenge", "nothing-of-the-kind"])


def test_labels_have_a_long_tail_and_scores_are_informative():
    targets, scores = make_long_tailed(20_000, {"head": 500, "tail": 5}, 1000)
    assert targets.shape == scores.shape == (20_000, 2)
    assert targets.mean(axis=0) == pytest.approx([0.5, 0.005], rel=0.2)
    for target, score in zip(targets.T, scores.T, strict=True):
        assert score[target == 1].mean() > score[target == 0].mean() + 1


def test_patients_have_many_images_or_few():
    results = make_patients(10_000, 2_000)
    _, counts = np.unique(results, return_counts=True)
    assert results.max() < 2_000
    assert counts.max() > 3 * np.median(counts)


@pytest.fixture
def stages(monkeypatch):
    """Two stages in place of the real ones: one with a figure, one that fails."""

    def broken(config):
        raise UserError("no room")
        yield

    def good(config):
        (config.folder / "file").write_text("x")
        yield FASTER

    fitted = ScalingResult("good", "row", (1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0))
    fake = {"good": Benchmark(good, lambda config: fitted), "broken": Benchmark(broken)}
    monkeypatch.setattr(module, "BENCHMARKS", fake)


def test_figures_are_written_also_if_a_later_stage_fails(stages, tmp_path):
    with pytest.raises(UserError, match="no room"):
        run_benchmarks((), tmp_path / "work", quick=True, scaling=False, json_path=tmp_path / "found.json")
    results = json.loads((tmp_path / "found.json").read_text())
    assert [row["stage"] for row in results["rows"]] == ["loader"]
    assert results["rows"][0]["ratio"] == 12
    assert results["machine"]["cores"] >= 1
    assert results["quick"] is True


def test_nothing_is_left_behind(stages, tmp_path):
    assert run_benchmarks(("good",), tmp_path, quick=False, scaling=False, json_path=None)
    assert list(tmp_path.iterdir()) == []


def test_scaling_measures_stages_with_a_scaling_function(stages, tmp_path, capsys):
    assert run_benchmarks((), tmp_path, quick=True, scaling=True, json_path=tmp_path / "found.json")
    assert "good: cost ~ rows^1.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["scaling"][0]["exponent"] == pytest.approx(1)


def test_an_unknown_stage_is_an_error_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as error:
        main(["loadr"])
    assert error.value.code == 2
    assert_mentions(capsys.readouterr().err, "loadr", "did you mean loader?")


def test_help_names_every_stage(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert_mentions(" ".join(capsys.readouterr().out.split()), *BENCHMARKS, "2 %")


def test_a_wrong_result_is_the_exit_code(monkeypatch, tmp_path):
    def faulty(config):
        yield Measurement("metrics", 1, "rows/s", error="differs")

    monkeypatch.setattr(module, "BENCHMARKS", {"metrics": Benchmark(faulty)})
    with pytest.raises(SystemExit) as error:
        main(["metrics", "--folder", str(tmp_path)])
    assert "differs" in error.value.code  # a text is exit code 1
