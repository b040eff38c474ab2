import numpy as np
import pytest
import torch
from PIL import Image

from rstg_pyg.train.data import transforms


@pytest.fixture
def clip():
    """Pixel (t, y, x) holds (t, y, x)."""
    grid = torch.meshgrid(torch.arange(3), torch.arange(50), torch.arange(90), indexing="ij")
    return torch.stack(grid, -1).to(torch.uint8)


def test_short_side_size_truncates():
    assert transforms.short_side_size(240, 427, 256) == (256, 455)  # 455.5
    assert transforms.short_side_size(427, 240, 256) == (455, 256)
    assert transforms.short_side_size(101, 177, 256) == (256, 448)
    assert transforms.short_side_size(1, 1, 8) == (8, 8)


@pytest.mark.parametrize("size", [(25, 45), (100, 180), (51, 91)])
def test_resize_is_pillow_bicubic(size):
    image = np.kron(np.random.default_rng(0).integers(0, 255, (10, 18, 3)), np.ones((5, 5, 1)))
    frames = torch.from_numpy(image.astype(np.uint8))[None].repeat(2, 1, 1, 1)
    resized = transforms.resize(frames, *size)
    expected = Image.fromarray(frames[0].numpy()).resize(size[::-1], Image.BICUBIC)
    assert resized.dtype == torch.uint8 and resized.shape == (2, *size, 3)
    assert torch.equal(resized[0], resized[1])
    assert np.abs(resized[0].numpy().astype(int) - np.asarray(expected)).max() <= 2


def test_center_crop_is_the_published_one(clip):
    cropped = transforms.center_crop(clip, 21)
    assert cropped.shape == (3, 21, 21, 3)
    assert cropped[0, 0, 0].tolist() == [0, 50 // 2 - 21 // 2, 90 // 2 - 21 // 2]


def test_random_crop_is_the_same_for_all_frames_and_reaches_every_edge(clip):
    generator = np.random.default_rng(0)
    corners = []
    for _ in range(400):
        cropped = transforms.crop(clip, *transforms.random_window(50, 90, 46, generator))
        assert cropped.shape == (3, 46, 46, 3)
        assert (cropped[..., 1:] == cropped[:1, ..., 1:]).all()
        corners.append(cropped[0, 0, 0, 1:].tolist())
    tops, lefts = map(set, zip(*corners))
    assert tops == set(range(5)) and (min(lefts), max(lefts)) == (0, 44)


def test_random_crop_of_the_whole(clip):
    square = clip[:, :, :50]
    window = transforms.random_window(50, 50, 50, np.random.default_rng(0))
    assert torch.equal(transforms.crop(square, *window), square)


def test_multi_scale_crop(clip):
    generator = np.random.default_rng(0)
    heights = set()
    for _ in range(60):
        window = transforms.multi_scale_window(50, 90, 40, generator)
        cropped = transforms.resize(transforms.crop(clip, *window), 40, 40)
        assert cropped.shape == (3, 40, 40, 3)
        height, width = (int(cropped[0, ..., i].int().max() - cropped[0, ..., i].min()) for i in (1, 2))
        assert abs(height - width) < 12  # neighboring scales: 50, 43, 37, 33
        heights.add(height)
    assert min(heights) < 34 and max(heights) > 46  # scales .66 to 1 of 50 rows


def test_eleven_crops_are_the_published_ones(clip):
    crops = [transforms.crop(clip, *w) for w in transforms.spread_windows(50, 90, 40, 11)]
    corners = [c[0, 0, 0, 1:].tolist() for c in crops]
    tops, lefts = np.linspace(0, 10, 11).astype(int), np.linspace(0, 50, 11).astype(int)
    assert corners == [[y, x] for y, x in zip(tops, lefts)]
    assert all(c.shape == (3, 40, 40, 3) for c in crops)


def test_three_crops_are_the_ends_and_the_middle(clip):
    crops = [transforms.crop(clip, *w) for w in transforms.spread_windows(50, 90, 50, 3)]
    assert [c[0, 0, 0, 1:].tolist() for c in crops] == [[0, 0], [0, 20], [0, 40]]


def test_brightness_shift_is_the_published_one():
    frames = torch.arange(256, dtype=torch.uint8).repeat(2, 4, 1)[..., None].repeat(1, 1, 1, 3)
    shifts = []
    for seed in range(30):
        delta = np.random.default_rng(seed).uniform(-0.1, 0.1)
        shifted = transforms.shift_brightness(frames, 0.1, np.random.default_rng(seed))
        expected = np.floor(255.5 * (np.arange(256) / 255 + delta)).clip(0, 255)
        assert (shifted.numpy() == expected[None, None, :, None]).all()
        shifts.append(delta)
    assert min(shifts) < -0.07 and max(shifts) > 0.07
    assert torch.equal(transforms.shift_brightness(frames, 0.0, np.random.default_rng(0)), frames)


def test_flip(clip):
    assert transforms.flip(clip)[1, 2, :, 2].tolist() == list(range(89, -1, -1))


def test_mirrored_classes():
    classes = [
        "Pushing something from left to right",
        "Pushing something from right to left",
        "Turning the camera left while filming something",
        "Turning the camera right while filming something",
        "Moving something up",
        "Moving something to the left",  # its opposite is not a class
        "Left hand waving",
        "Leftover food, brightly lit",
        "Right hand waving",
        "Plugging something into something but pulling it right out as you remove your hand",
    ]
    assert transforms.mirrored_classes(classes) == [1, 0, 3, 2, 4, None, 8, 7, 6, 9]


@pytest.mark.parametrize(
    "one, other",
    [("swipe_left", "swipe_right"), ("left_to_right", "right_to_left"), ("TurnLeft", "TurnRight"),
     ("leftHand", "rightHand"), ("LEFT", "RIGHT"), ("moving left in a line", "moving right in a line"),
     ("1-left", "1-right")],
)  # fmt: skip
def test_classes_are_mirrored_however_they_are_written(one, other):
    assert transforms.mirrored_classes([one, other]) == [1, 0]
    assert transforms.mirrored_classes([one, "Brightness", "leftover", "LEFTOVER"])[1:] == [1, 2, 3]


def test_a_class_without_its_opposite_is_not_mirrored():
    assert transforms.mirrored_classes(["swipe_left", "TurnRight", "up"]) == [None, None, 2]


@pytest.mark.parametrize("arguments", [(0.4, 0), (0.0, 9), (0.4, 20)])
def test_augmentation_is_alike_in_all_frames_and_depends_on_the_generator_only(arguments):
    augment = transforms.Augment(*arguments)
    frame = torch.randint(0, 256, (1, 24, 32, 3), dtype=torch.uint8)
    clip = frame.expand(5, -1, -1, -1)
    before = torch.get_rng_state()
    found = [augment(clip, np.random.default_rng(seed)) for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    for seed, out in enumerate(found):
        assert out.shape == clip.shape and out.dtype == torch.uint8
        assert (out == out[:1]).all()
        assert torch.equal(out, augment(clip, np.random.default_rng(seed)))
    assert sum(not torch.equal(out, clip) for out in found) > 6
    assert len({out.numpy().tobytes() for out in found}) > 6
    assert torch.equal(transforms.Augment(0.0, 0)(clip, np.random.default_rng(0)), clip)
