import torch

from cxrlt.heads.csra import CSRAHead

MASK = torch.tensor([[True] * 5, [True, True, False, True, False]])


def features():
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def head(weight=0.3):
    torch.manual_seed(1)
    made = CSRAHead(8, 3, weight=weight)
    torch.nn.init.normal_(made.bias)
    return made


def expected_logit(made, places, label, weight):
    """Class-specific feature g + lambda a of the paper, then the class's own classifier."""
    direction = made.directions[label] / made.directions[label].norm()
    shares = torch.stack([torch.dot(place, direction) for place in places]).exp()
    attended = sum(share * place for share, place in zip(shares / shares.sum(), places, strict=True))
    return torch.dot(sum(places) / len(places) + weight * attended, direction) + made.bias[label]


def test_a_logit_is_that_of_the_average_and_the_residual_attention():
    made = head()
    logits = made(features(), MASK)
    for row in range(2):
        places = list(features()[row][MASK[row]])
        for label in range(3):
            assert torch.allclose(logits[row, label], expected_logit(made, places, label, 0.3), atol=1e-6)


def test_without_residual_it_is_a_normalised_linear_classifier_of_the_average():
    made = head(weight=0.0)
    weights = made.directions / made.directions.norm(dim=1, keepdim=True)
    assert torch.allclose(made(features()), features().mean(dim=1) @ weights.T + made.bias, atol=1e-6)


def test_the_length_of_a_class_vector_does_not_matter():
    made = head()
    before = made(features())
    with torch.no_grad():
        made.directions *= 5
    assert torch.allclose(made(features()), before, atol=1e-6)


def test_what_is_not_valid_does_not_count():
    made, spoiled = head(), features()
    spoiled[~MASK] = torch.nan
    assert torch.equal(made(spoiled, MASK), made(features(), MASK))


def test_logits_keep_their_precision_under_autocast():
    made = head()
    with torch.autocast("cpu", torch.bfloat16):
        low = made(features(), MASK)
    assert torch.equal(low, made(features(), MASK))
