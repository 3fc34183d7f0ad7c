import pytest
import torch

from cxrlt.heads.pools import AttentionPool, AveragePool, GeMPool

MASK = torch.tensor([[True, True, True, True], [True, False, True, False]])


def features(scale=1.0):
    return scale * torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def pools():
    attention = AttentionPool(6)
    torch.nn.init.normal_(attention.query)
    return [AveragePool(), GeMPool(), attention]


def valid(row):
    return features()[row][MASK[row]]


def test_the_average_is_that_of_the_valid_places():
    pooled = AveragePool()(features(), MASK)
    for row in range(2):
        assert torch.allclose(pooled[row], valid(row).mean(dim=0))


@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_gem_is_the_root_of_the_mean_power(p):
    pool = GeMPool()
    pool.p.data.fill_(p)
    pooled = pool(features(), MASK)
    for row in range(2):
        expected = valid(row).clamp(min=1e-6).double().pow(p).mean(dim=0).pow(1 / p)
        assert torch.allclose(pooled[row].double(), expected, rtol=1e-4)


def test_gem_starts_at_three_and_learns():
    pool = GeMPool()
    assert pool.p.item() == 3
    pool(features()).sum().backward()
    exact = features().double().clamp(min=1e-6)
    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    exact.pow(p).mean(dim=1).pow(1 / p).sum().backward()
    assert pool.p.grad.item() == pytest.approx(p.grad.item(), rel=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
@pytest.mark.parametrize("p", [1.0, 3.0, 60.0])
def test_no_power_overflows(scale, p):
    pool, x = GeMPool(), features(scale).requires_grad_()
    pool.p.data.fill_(p)
    pooled = pool(x, MASK)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert x.grad.isfinite().all()
    assert pool.p.grad.isfinite().all()


def test_attention_is_the_softmax_weighted_mean():
    _, _, pool = pools()
    pooled = pool(features(), MASK)
    for row in range(2):
        scores = [torch.dot(place, pool.query) / 6**0.5 for place in valid(row)]
        weights = torch.stack(scores).exp()
        expected = (weights[:, None] * valid(row)).sum(dim=0) / weights.sum()
        assert torch.allclose(pooled[row], expected, atol=1e-6)


def test_attention_starts_as_the_average_and_learns():
    pool = AttentionPool(6)
    pooled = pool(features(), MASK)
    assert torch.allclose(pooled, AveragePool()(features(), MASK))
    pooled.square().sum().backward()
    assert pool.query.grad.abs().min() > 0


@pytest.mark.parametrize("kind", range(3))
def test_what_is_not_valid_does_not_count(kind):
    pool = pools()[kind]
    spoiled = features()
    spoiled[~MASK] = torch.nan
    assert torch.equal(pool(spoiled, MASK), pool(features(), MASK))
    assert torch.allclose(pool(features()[:1]), pool(features()[:1], MASK[:1]), atol=1e-6)
