"""`bash run.sh bench --gpu`: failed checks and the measured values."""

import dataclasses
import json

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import gpu
from benchmarks.gpu import Check, TrainSpeed

CPU = torch.device("cpu")
TRAINED = TrainSpeed(images_per_s=100, data_wait_share=0, first_epoch_s=1, loss=0.5, peak_gb=2)


def test_without_a_gpu_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        command.main(["--gpu", "--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("bench: --gpu needs a GPU, and torch finds none.\n")


@pytest.mark.parametrize(("passed", "code"), [(True, None), (False, "bench: a GPU check failed")])
def test_the_exit_code_says_whether_all_parts_passed(monkeypatch, passed, code):
    monkeypatch.setattr(command, "check_gpu", lambda *_: passed)
    with pytest.raises(SystemExit) as ended:
        command.main(["--gpu"])
    assert ended.value.code == code


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_is_a_line_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    parts = {"too slow": Check(None, 0.01), "unknown": Check(None, 100)}
    monkeypatch.setattr(gpu, "checks_for", lambda device: parts)
    assert not gpu.check_gpu(tmp_path / "work", tmp_path / "found.json", CPU)
    slow, unknown = json.loads((tmp_path / "found.json").read_text())["parts"]
    assert slow["reason"] == "stopped at its time limit of 0.01 s"
    assert unknown["reason"] == "KeyError: 'unknown' (exit code 1)"
    assert not slow["passed"] and not unknown["passed"]
    assert capsys.readouterr().out.count("FAILED") == 2
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_a_batch_too_large_for_the_memory_is_halved(tmp_path):
    results = gpu.check_out_of_memory(tmp_path, CPU)
    assert results.error == ""
    assert results.figures["rows after"] == results.figures["rows"] / 2


@pytest.mark.slow
def test_a_backbone_is_measured_with_flops_and_data_wait(tmp_path):
    figures = gpu.check_backbone(tmp_path, CPU, 0, 32).figures
    assert figures["images_per_s"] > 0
    assert 0 <= figures["data_wait_share"] < 1
    assert figures["utilisation"] == pytest.approx(figures["tflop_per_s"] / figures["matmul_tflop_per_s"])


@pytest.mark.full
def test_a_resumed_training_has_the_weights_of_an_uninterrupted_one(tmp_path):
    results = gpu.check_resume(tmp_path, CPU)
    assert results.error == ""
    assert results.figures == {"difference of uninterrupted runs": 0, "difference of resumed run": 0}


def test_a_different_loss_is_reported():
    same = gpu._compare({"float32": TRAINED, "bf16": dataclasses.replace(TRAINED, images_per_s=250)})
    assert (same.error, same.figures["speed ratio"]) == ("", 2.5)
    for loss, how in ((0.6, "20.0%"), (float("nan"), "nan%")):
        other = gpu._compare({"float32": TRAINED, "bf16": dataclasses.replace(TRAINED, loss=loss)})
        assert other.error == f"the loss of bf16 differs by {how} from that of float32"


def test_the_parts_of_a_gpu_are_two_backbones_at_two_sizes_and_what_only_it_has():
    assert list(gpu.checks_for(torch.device("cuda"))) == [
        "tests",
        "convnext_small 384 px",
        "convnext_small 512 px",
        "tf_efficientnetv2_s 384 px",
        "tf_efficientnetv2_s 512 px",
        "bf16",
        "channels_last",
        "compile",
        "out of memory",
        "resume",
    ]
