import pytest
import torch
from helpers.random_weights import draw

from rstg_pyg import LSTMHead, VideoClassifier
from rstg_pyg.backbones import SimpleConv


@pytest.mark.parametrize("map_size", [None, (3, 2)])
def test_lstm_over_the_frames_of_a_map(map_size):
    head = LSTMHead(4, 5, map_size)
    x = draw(2, 4, 6, 3, 2).float()
    frames = []
    for t in range(6):
        frame = x[:, :, t]
        frames.append(frame.mean((2, 3)) if map_size is None else frame.reshape(2, -1))
    expected = head.lstm(torch.stack(frames))[0].mean(dim=0)
    torch.testing.assert_close(head(x), expected)
    assert head.lstm.input_size == (4 if map_size is None else 24)


def test_the_mean_does_not_know_where_but_the_flattened_map_does():
    x = torch.randn(2, 4, 6, 3, 3)
    moved = x.roll(1, dims=4)
    mean, flat = LSTMHead(4, 5), LSTMHead(4, 5, 3)
    torch.testing.assert_close(mean(x), mean(moved))
    assert (flat(x) - flat(moved)).abs().max() > 1e-3


def test_every_gate_is_drawn_by_itself_and_biases_are_zero():
    lstm, bound = LSTMHead(48, 16).lstm, (6 / (48 + 16)) ** 0.5  # Glorot uniform
    for gate in lstm.weight_ih_l0.view(4, 16, 48):
        assert 0.9 * bound < gate.abs().max() <= bound
    assert lstm.bias_ih_l0.abs().max() == lstm.bias_hh_l0.abs().max() == 0


def test_norm_of_the_channels():
    head = LSTMHead(4, in_norm=True)
    x = 100 + 50 * torch.randn(2, 4, 6, 3, 3)
    head(x)
    assert head.norm.running_mean.abs().min() > 0
    assert LSTMHead(4).norm is None
    assert head.out_channels == 4


def test_mistakes():
    head = LSTMHead(4, 5, map_size=3)
    with pytest.raises(ValueError, match=r"\[B, 4, T, H, W\]"):
        head(torch.randn(2, 3, 6, 3, 3))
    with pytest.raises(ValueError, match=r"map of 3 x 3 cells \(got 4 x 3\)"):
        head(torch.randn(2, 4, 6, 4, 3))
    backbone = SimpleConv(1, (6, 8))
    with pytest.raises(ValueError, match=r"head must have 8 channels .*\(got 6\)"):
        VideoClassifier(backbone, 5, head=LSTMHead(6))
    with pytest.raises(ValueError, match=r"\(got 12 at its output\)"):
        VideoClassifier(backbone, 5, head=LSTMHead(8, 12), combine="plus")
