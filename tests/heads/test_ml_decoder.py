import torch
from torch import nn
from torch.nn import functional as F

from cxrlt.heads.ml_decoder import MLDecoderHead

MASK = torch.tensor([[True] * 6, [True, True, False, True, False, False]])


def features():
    return torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))


def head(n_classes=3):
    torch.manual_seed(1)
    made = MLDecoderHead(10, n_classes, dim=8, n_heads=2).eval()
    for p in made.parameters():
        nn.init.normal_(p, std=0.5)
    return made


def attend(made, queries, places):
    """Attention of two heads, one query at a time."""
    q, k, v = (
        F.linear(x, weight, bias)
        for x, weight, bias in zip(
            (queries, places, places),
            made.attention.in_proj_weight.chunk(3),
            made.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    rows = []
    for query in q:
        parts = []
        for part in (slice(0, 4), slice(4, 8)):
            shares = torch.stack([torch.dot(query[part], key[part]) / 2 for key in k]).softmax(dim=0)
            parts.append(sum(share * value[part] for share, value in zip(shares, v, strict=True)))
        rows.append(made.attention.out_proj(torch.cat(parts)))
    return torch.stack(rows)


def test_every_class_looks_at_the_places_with_a_query_of_its_own():
    made = head()
    with torch.no_grad():
        logits = made(features(), MASK)
        for row in range(2):
            places = made.embed[0](features()[row][MASK[row]]).relu()
            queries = made.norm_queries(made.queries)
            classes = made.norm_attended(queries + attend(made, queries, places))
            classes = made.norm_out(classes + made.feed_forward(classes))
            for label in range(3):
                expected = torch.dot(classes[label], made.weight[label]) + made.bias[label]
                assert torch.allclose(logits[row, label], expected, atol=1e-5)


def test_a_class_owes_nothing_to_the_others():
    made = head()
    with torch.no_grad():
        before = made(features())
        made.queries[0] += 1
        made.weight[0] += 1
        after = made(features())
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.equal(before[:, 0], after[:, 0])


def test_the_order_of_the_places_does_not_matter_and_their_content_does():
    made = head()
    with torch.no_grad():
        whole = made(features())
        assert torch.allclose(made(features().flip(1)), whole, atol=1e-5)
        assert not torch.allclose(made(features().flip(0)), whole, atol=1e-2)


def test_what_is_not_valid_does_not_count():
    made, spoiled = head(), features()
    spoiled[~MASK] = 1e3
    with torch.no_grad():
        assert torch.allclose(made(spoiled, MASK), made(features(), MASK), atol=1e-5)


def test_it_learns_where_to_look():
    """Class k is present where one of nine places shows pattern k; the average hardly tells."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 16, generator=generator)
    places = torch.randn(128, 9, 16, generator=generator)
    labels = (torch.rand(128, 4, generator=generator) < 0.4).float()
    for label in range(4):
        where = torch.randint(0, 9, (128,), generator=generator)
        places[torch.arange(128), where] += 2 * labels[:, label, None] * patterns[label]
    torch.manual_seed(0)
    made = MLDecoderHead(16, 4, dim=32, n_heads=4)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(made(places), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
