"""Compiled losses give what they give uncompiled."""

import pytest
import torch
from loss_cases import CASES, DEFAULTS, batch, value_and_gradient

from sampled_cases import sample_cases

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Every loss shares one `forward`, which would soon have been compiled too often."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("case", sample_cases(CASES, every=4), ids=str)
def test_a_loss_compiles_without_graph_breaks_to_the_same_value_and_gradient(case):
    logits, targets = batch(case)
    targets[1, 1] = float("nan")
    compiled = torch.compile(case.make(), backend="aot_eager", fullgraph=True)
    value, gradient = value_and_gradient(compiled, logits, targets)
    expected, slope = value_and_gradient(case.make(), logits, targets)
    assert torch.isclose(value, expected)
    assert torch.allclose(gradient, slope, rtol=1e-4, atol=1e-7)


@pytest.mark.full
def test_the_default_compiler_gives_the_same_values_where_there_is_one():
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1))
    except Exception as error:  # a missing compiler shows itself in many ways
        pytest.skip(f"no working compiler: {str(error).strip().splitlines()[0]}")
    losses = [case.make() for case in DEFAULTS]
    batches = [batch(case) for case in DEFAULTS]

    def values(batches):  # in one graph, for compiling takes its time
        return torch.stack([loss(*each) for loss, each in zip(losses, batches, strict=True)])

    got = torch.compile(values, fullgraph=True)(batches)
    for case, value, expected in zip(DEFAULTS, got, values(batches), strict=True):
        assert torch.isclose(value, expected, rtol=1e-4), case.name
