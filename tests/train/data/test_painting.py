import numpy as np
import pytest
import torch
from PIL import Image

from rstg_pyg.train.data.syncmnist.painting import paint, resize, stretch, triangle_matrix


def test_paint_replaces_where_bright():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 4, 5, 6), generator=generator).to(torch.uint8)
    images[images < 128] //= 16  # many dark pixels, around the threshold of 10
    images[0, 0, 0, :2] = torch.tensor([9, 10])
    corners = torch.randint(0, 10, (3, 2, 4, 2), generator=generator)
    expected = np.zeros((3, 2, 16, 16), np.uint8)
    for b in range(3):
        for t in range(2):
            for d in range(4):
                r, c = corners[b, t, d].tolist()
                for y in range(5):
                    for x in range(6):
                        if images[b, d, y, x] >= 10:
                            expected[b, t, r + y, c + x] = images[b, d, y, x]
    assert np.array_equal(paint(images, corners, 16).numpy(), expected)


def test_stretch():
    frames = torch.randint(20, 200, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    frames = frames.to(torch.uint8)
    frames[0, 0] = 7  # constant
    frames[0, 1] = torch.arange(64).view(8, 8) % 7  # 1 becomes 42.5
    frames[1, 1, 0, 0], frames[1, 1, 0, 1] = 0, 255  # full range already
    out = stretch(frames)
    for b in range(2):
        for t in range(3):
            x = frames[b, t].double()
            span = max(float(x.max() - x.min()), 1.0)
            wanted = ((x - x.min()) * (255 / span)).clamp(0, 255)
            assert torch.equal(out[b, t], (wanted + 0.5).to(torch.uint8))


@pytest.mark.parametrize(("before", "after"), [(100, 64), (28, 12), (28, 20), (12, 28), (37, 11)])
def test_resize_is_pillows(before, after):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, before, before), dtype=np.uint8)
    expected = np.stack(
        [np.asarray(Image.fromarray(f).resize((after, after), Image.BILINEAR)) for f in frames]
    )
    out = resize(torch.from_numpy(frames), after).numpy()
    assert np.array_equal(out, expected)


def test_resize_to_the_same_size_changes_nothing():
    frames = torch.randint(0, 256, (2, 9, 9)).to(torch.uint8)
    assert torch.equal(resize(frames, 9), frames)
    assert torch.allclose(triangle_matrix(7, 19).sum(1), torch.ones(7).double())
