"""Heads of TRN and I3D."""

from itertools import combinations

import pytest
import torch

from rstg_pyg import RelationHead, VideoClassifier, WindowMean
from rstg_pyg.backbones import SimpleConv


def relations(head, x, chosen):
    """TRN's sums, set by set; ``chosen`` are sets of frames by scale."""
    frames = head.lin_in(x.mean((3, 4)).transpose(1, 2))
    out = []
    for scale, lin in zip(head.scales, head.lins, strict=True):
        sets, factor = chosen[scale]
        total = 0
        for frames_of_set in sets:
            row = torch.cat([frames[:, t] for t in frames_of_set], dim=1)
            total = total + lin(row.relu()).relu()
        out.append(total * factor)
    return torch.cat(out, dim=1)


def test_evaluation_is_the_mean_over_all_relations():
    torch.manual_seed(0)
    head, x = RelationHead(6, 5, 8).eval(), torch.randn(2, 6, 5, 3, 4)
    torch.nn.init.normal_(head.lin_in.weight)
    chosen = {}
    for scale in head.scales:
        sets = list(combinations(range(5), scale))
        chosen[scale] = sets, min(3, len(sets)) / len(sets)
    assert head.scales == [5, 4, 3, 2] and head.counts == [1, 3, 3, 3]
    torch.testing.assert_close(head(x), relations(head, x, chosen))
    assert torch.equal(head(x), head(x))


def test_a_given_draw_is_used_in_training_and_evaluation():
    torch.manual_seed(0)
    drawn = [[3, 0, 2], [9, 1, 4], [0, 5, 7]]
    head, x = RelationHead(6, 5, 8, dropout=0.0, drawn=drawn), torch.randn(2, 6, 5, 3, 4)
    torch.nn.init.normal_(head.lin_in.weight)
    chosen = {5: ([tuple(range(5))], 1)}
    for scale, part in zip((4, 3, 2), drawn, strict=True):
        sets = list(combinations(range(5), scale))
        chosen[scale] = [sets[i] for i in part], 1
    expected = relations(head, x, chosen)
    torch.testing.assert_close(head.train()(x), expected)
    torch.testing.assert_close(head.eval()(x), expected)


def test_training_draws_relations_whose_mean_is_that_of_evaluation():
    torch.manual_seed(0)
    head, x = RelationHead(6, 5, 8, dropout=0.0), torch.randn(1, 6, 5, 2, 2)
    torch.nn.init.normal_(head.lin_in.weight)
    with torch.no_grad():
        draws = torch.stack([head.train()(x) for _ in range(1500)])
        expected = head.eval()(x)
    assert draws.std(0).max() > 0.1
    error = draws.mean(0) - expected
    assert (error.abs() < 5 * draws.std(0) / 1500**0.5 + 1e-4).all()


def test_the_classifier_sums_one_layer_per_scale():
    torch.manual_seed(0)
    head = RelationHead(4, 4, 8)
    model = VideoClassifier(SimpleConv(1, (4,), padding=1), 3, head=head).eval()
    assert model.lin.bias.shape == (3, 3) and model.lin.weight.shape == (3, 24)
    torch.nn.init.normal_(model.lin.bias)
    clip = torch.rand(2, 1, 4, 8, 8)
    vector = head(model.features(clip))
    expected = sum(
        part @ weight.t() + count * bias
        for part, weight, bias, count in zip(
            vector.chunk(3, 1), model.lin.weight.chunk(3, 1), model.lin.bias, (1, 3, 3), strict=True
        )
    )
    torch.testing.assert_close(model(clip), expected)
    model.reset_classifier(5)
    assert model.lin.bias.shape == (3, 5) and model.lin.bias.abs().max() == 0
    assert model(clip).shape == (2, 5)


def test_dropout_and_the_draws_of_training():
    torch.manual_seed(0)
    assert RelationHead(6, 5).out_channels == 4 * 256
    head, x = RelationHead(2048, 5, 8), torch.randn(2, 2048, 5, 1, 1)
    assert head.dropout.p == 0.8 and 0.0009 < head.lin_in.weight.std() < 0.0011
    seen = []
    for lin in head.lins:
        lin.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].size(1)))
    head.train()(x)
    assert seen == head.counts
    frames = x.mean((3, 4)).transpose(1, 2)
    torch.nn.init.eye_(head.lin_in.weight)
    head.lin_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(x)
    kept = seen[-5] != 0
    assert 0.18 < kept.float().mean() < 0.22
    torch.testing.assert_close(seen[-5][kept], 5 * frames[kept])
    torch.testing.assert_close((head.eval()(x), seen[-5])[1], frames)


def test_single_scale():
    head, x = RelationHead(6, 3, 8, multi_scale=False).eval(), torch.randn(2, 6, 3, 2, 2)
    assert head.out_channels == 512 and isinstance(head.classifier(512, 4), torch.nn.Linear)
    torch.testing.assert_close(head(x), relations(head, x, {3: ([(0, 1, 2)], 1)}))


def test_windows_of_two_steps_count_inner_steps_twice():
    x = torch.randn(2, 3, 4, 7, 7)
    steps = x.mean((3, 4))
    weights = torch.tensor([1.0, 2.0, 2.0, 1.0]) / 6
    torch.testing.assert_close(WindowMean(3)(x), steps @ weights)
    half = WindowMean(3)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), steps @ weights, rtol=0.02, atol=0.01)
    torch.manual_seed(0)
    ones, head = torch.ones(50, 40, 4, 7, 7), WindowMean(40, dropout=0.5)
    kept = head(ones) * 3 / 2  # of three windows, each by itself
    shares = [float((kept == n).float().mean()) for n in range(4)]
    assert shares == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8], abs=0.03)
    torch.testing.assert_close(head.eval()(ones), torch.ones(50, 40))
    small = torch.randn(2, 3, 1, 2, 5)
    torch.testing.assert_close(WindowMean(3)(small), small.mean((2, 3, 4)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RelationHead(4, 1), r"'num_frames' to be at least 2 \(got 1\)"),
        (lambda: RelationHead(4, 4, drawn=[[0], [1]]), r"\[3, 3\] positions for the scales \[3, 2\]"),
        (lambda: RelationHead(4, 4, drawn=[[0, 1, 2], [0, 1, 6]]), "below the number of sets"),
        (lambda: RelationHead(4, 4)(torch.randn(1, 4, 3, 2, 2)), r"maps of 4 frames \(got 3\)"),
        (lambda: WindowMean(4, (0, 7, 7)), r"'window' to be at least 1 \(got 0\)"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
