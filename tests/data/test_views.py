from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V2

from fercore.data.images import augment
from fercore.data.images.resize import fitted
from fercore.data.images.views import Views, crop_and_colour, strong, weak
from fercore.data.noise import key, permutation, uniforms
from fercore.errors import UserInputError
from fercore.records.plan import CropAndColour, ViewRequest


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def draws(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(uniforms(key(seed), np.arange(n), 16))


def test_random_numbers_are_uniform_and_belong_to_their_draw():
    u = uniforms(key(0, "weak"), np.arange(20_000), 16)
    assert (u >= 0).all()
    assert (u < 1).all()
    assert np.abs(u.mean(0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(u.T) - np.eye(16)).max() < 0.03
    assert np.abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03
    assert (uniforms(key(0, "weak"), np.array([17, 3]), 16) == u[[17, 3]]).all()
    assert not (uniforms(key(0, "weak2"), np.arange(5), 16) == u[:5]).any()
    assert sorted(permutation(50, 1).tolist()) == list(range(50))


def test_colour_jitter_is_that_of_torchvision(faces: torch.Tensor):
    factors = 0.8 + 0.4 * torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    adjust = (V2.adjust_brightness, V2.adjust_contrast, V2.adjust_saturation)
    order = torch.tensor([0, 1, 2, 3, 5])
    ours = augment.colour_jitter(faces, order, factors)
    for i, face in enumerate(faces):
        expected = face
        for kind in augment.ORDERS[order[i]].tolist():
            expected = adjust[kind](expected, float(factors[i, kind]))
        torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0)


def test_affine_is_that_of_torchvision(faces: torch.Tensor):
    angle, scale = torch.tensor([-14.0, 3, 0, 9, 15]), torch.tensor([0.9, 1.05, 1, 0.95, 1])
    shift = torch.tensor([[0, 0], [2, -1], [-3, 1], [1, 1], [0, 2]]) / 32
    flip = torch.tensor([False, True, True, False, True])
    ours = augment.warp(faces, augment.inverse_affine(torch.deg2rad(angle), shift, scale, flip))
    for i, face in enumerate(faces):
        image = V2.horizontal_flip(face) if flip[i] else face
        expected = V2.affine(
            image, float(angle[i]), (shift[i] * 32).tolist(), float(scale[i]), [0.0, 0.0], InterpolationMode.BILINEAR
        )
        inner = (slice(None), slice(6, -6), slice(6, -6))
        torch.testing.assert_close(ours[i][inner], expected[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("auto_contrast", 0.0, V2.autocontrast),
        ("brightness", 0.4, lambda x: V2.adjust_brightness(x, 0.4)),
        ("colour", 0.3, lambda x: V2.adjust_saturation(x, 0.3)),
        ("contrast", 0.3, lambda x: V2.adjust_contrast(x, 0.3)),
        ("identity", 0.5, lambda x: x),
        ("posterize", 5.7, lambda x: V2.posterize((x * 255).round().to(torch.uint8), 5) / 255),
        ("sharpness", 0.4, lambda x: V2.adjust_sharpness(x, 0.4)),
        ("solarize", 128.0, lambda x: V2.solarize(x, 128 / 255)),
    ],
)
def test_operations_are_those_of_torchvision(faces: torch.Tensor, name: str, magnitude: float, expected):
    operation = {row[0]: row[1] for row in augment.RAND_OPS}[name]
    ours = operation(faces, torch.full((5,), magnitude))
    torch.testing.assert_close(ours, expected(faces), atol=2e-5, rtol=0)


def test_every_operation_keeps_shape_and_range(faces: torch.Tensor):
    assert len(augment.RAND_OPS) == 14
    for name, operation, low, high in augment.RAND_OPS:
        for share in (0.0, 0.5, 0.999):
            out = operation(faces.clone(), torch.full((5,), low + (high - low) * share))
            assert out.shape == faces.shape, name
            assert out.min() >= -1e-6, name
            assert out.max() <= 1 + 1e-6, name


def test_cutout_is_a_grey_square():
    out = augment.cutout(torch.zeros(1, 3, 32, 32), torch.tensor([[0.25, 0.75]]), torch.tensor([0.25]))
    rows, columns = np.nonzero(out[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 27, 4, 11)


@pytest.mark.parametrize(
    ("centre", "rows", "columns"), [((0.05, 0.5), (12, 19), (0, 7)), ((0.95, 0.0), (0, 7), (26, 31))]
)
def test_a_hole_at_an_edge_is_that_of_the_released_code(centre, rows, columns):
    """Its corner is moved inside; its far side is cut."""
    out = augment.cutout(torch.zeros(1, 3, 32, 32), torch.tensor([centre]), torch.tensor([0.25]))
    found_rows, found_columns = np.nonzero(out[0, 0].numpy())
    assert (found_rows.min(), found_rows.max()) == rows
    assert (found_columns.min(), found_columns.max()) == columns


@pytest.mark.parametrize("magnitude", [-0.3, -0.1, 0.2])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_shears_and_shifts_are_those_of_the_released_code(name: str, magnitude: float):
    """Affine transforms of Pillow, whose origin is the upper left corner, on a picture that is even between pixels."""
    side = 32
    y, x = np.mgrid[:side, :side].astype("float32")
    picture = (0.2 + 0.3 * np.sin(x / 9) + 0.3 * np.cos(y / 7 + x / 20) + 0.2).astype("float32")
    shift = magnitude * side
    data = {
        "shear_x": (1, magnitude, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, magnitude, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }[name]
    wanted = np.asarray(Image.fromarray(picture).transform((side, side), Image.Transform.AFFINE, data, Image.BILINEAR))
    operation = {row[0]: row[1] for row in augment.RAND_OPS}[name]
    found = operation(torch.tensor(picture).expand(1, 3, -1, -1).double(), torch.tensor([magnitude]).double())[0, 0]
    inner = slice(11, -11)
    np.testing.assert_allclose(found.numpy()[inner, inner], wanted[inner, inner], atol=1e-5)


@pytest.mark.parametrize("policy", ["none", "light", "standard"])
def test_a_sample_does_not_depend_on_its_batch(faces: torch.Tensor, policy: str):
    u = draws(5)
    for make in (lambda x, v: weak(x, v, policy), strong):
        whole = make(faces, u)
        alone = torch.cat([make(faces[i : i + 1], u[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


def test_threads_change_no_bit(faces: torch.Tensor):
    x, u = faces.repeat(13, 1, 1, 1), draws(65)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append((weak(x, u, "standard"), strong(x, u)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_how_often_and_how_far(faces: torch.Tensor):
    u = draws(4000)
    assert abs(float((u[:, 0] < 0.5).float().mean()) - 0.5) < 0.03
    x = faces[:1].expand(4000, -1, -1, -1)
    seen = weak(x, u, "standard")
    is_grey = ((seen[:, 0] - seen[:, 1]).abs().amax((1, 2)) < 1e-5).float().mean()
    assert abs(float(is_grey) - 0.2) < 0.03
    assert torch.equal(weak(faces, u[:5], "none"), faces)


def test_one_name_with_two_transforms_is_refused():
    requests = [ViewRequest("source", "v", "weak"), ViewRequest("source", "v", "strong")]
    with pytest.raises(UserInputError, match="source view 'v' is asked for as 'weak' and as 'strong'"):
        Views(requests, "source", seed=0, policy="light", mean=(0, 0, 0), std=(1, 1, 1))


def test_fitting_to_a_square():
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, 10:30] = 255
    assert fitted(image, 16, "crop").min() == 255
    assert fitted(image, 16, "stretch").shape == (3, 16, 16)
    assert fitted(image, 16, "stretch").min() == 0


def test_hue_is_that_of_torchvision(faces: torch.Tensor):
    turns = torch.tensor([-0.5, -0.1, 0.0, 0.1, 0.37])
    faces[0, :, 0, 0] = 0.4
    ours = augment.turn_hue(faces, turns)
    for i, face in enumerate(faces):
        torch.testing.assert_close(ours[i], V2.adjust_hue(face, float(turns[i])), atol=1e-5, rtol=0)


def test_blur_is_that_of_torchvision(faces: torch.Tensor):
    sigma, chosen = torch.tensor([0.3, 0.5, 1.0, 1.5, 2.0]), torch.tensor([True, False, True, True, True])
    ours = augment.maybe_blur(faces, chosen, sigma)
    for i, face in enumerate(faces):
        expected = V2.gaussian_blur(face, [5, 5], [float(sigma[i])] * 2) if chosen[i] else face
        torch.testing.assert_close(ours[i], expected, atol=1e-5, rtol=0)


def test_a_crop_fills_the_image(faces: torch.Tensor):
    half, place = torch.full((5, 2), 0.5), torch.zeros(5, 2)
    flips = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0]]).bool()
    ours = augment.warp(faces, augment.crop(half, place, flips), "border")
    for i, face in enumerate(faces):
        corner = torch.nn.functional.interpolate(face[None, :, :16, :16], size=32, mode="bilinear")[0]
        expected = corner.flip([dim for dim, flip in ((2, flips[i, 0]), (1, flips[i, 1])) if flip])
        torch.testing.assert_close(ours[i][:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=0)
    last = augment.warp(faces, augment.crop(half, torch.ones(5, 2), flips & False), "border")
    corner = torch.nn.functional.interpolate(faces[:, :, 16:, 16:], size=32, mode="bilinear")
    torch.testing.assert_close(last[:, :, 2:-2, 2:-2], corner[:, :, 2:-2, 2:-2], atol=1e-5, rtol=0)
    white = augment.warp(torch.ones_like(faces), augment.crop(half, place, flips), "border")
    torch.testing.assert_close(white, torch.ones_like(faces))


STILL = {"jitter_chance": 0.0, "grey_chance": 0.0, "blur_chance": 0.0, "flip_chance": 0.0}


def test_crop_and_colour_does_what_its_numbers_say(faces: torch.Tensor):
    u = draws(5)
    whole = CropAndColour(area=(1.0, 1.0), ratio=(1.0, 1.0), **STILL)
    torch.testing.assert_close(crop_and_colour(faces, u, whole), faces, atol=1e-5, rtol=0)
    upside_down = replace(whole, upside_down_chance=1.0)
    torch.testing.assert_close(crop_and_colour(faces, u, upside_down), faces.flip(2), atol=1e-5, rtol=0)
    mirrored = replace(whole, flip_chance=1.0)
    torch.testing.assert_close(crop_and_colour(faces, u, mirrored), faces.flip(3), atol=1e-5, rtol=0)
    grey = crop_and_colour(faces, u, replace(whole, grey_chance=1.0))
    torch.testing.assert_close(grey, augment.grey(faces).expand(-1, 3, -1, -1), atol=1e-5, rtol=0)
    for name in ("jitter_chance", "blur_chance"):
        seen = crop_and_colour(faces, u, replace(whole, **{name: 1.0}))
        assert ((seen - faces).abs().amax((1, 2, 3)) > 1e-3).sum() >= 4  # the smallest sigma blurs nothing
        assert seen.min() >= -1e-6
        assert seen.max() <= 1 + 1e-6


def test_crop_and_colour_of_a_sample_does_not_depend_on_its_batch(faces: torch.Tensor):
    u, how = draws(5), CropAndColour()
    whole = crop_and_colour(faces, u, how)
    alone = torch.cat([crop_and_colour(faces[i : i + 1], u[i : i + 1], how) for i in range(5)])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)
    assert not torch.equal(whole, crop_and_colour(faces, draws(5, seed=1), how))


def test_areas_are_uniform_between_their_bounds():
    u = draws(4000)
    ramp = torch.linspace(0, 1, 32).expand(4000, 3, 32, 32)
    how = CropAndColour(area=(0.25, 0.64), ratio=(1.0, 1.0), **STILL)
    seen = crop_and_colour(ramp, u, how)
    width = (seen[:, 0, 16, 28] - seen[:, 0, 16, 3]) / 25 * 31
    assert width.min() > 0.49
    assert width.max() < 0.81
    assert abs(float(width.square().mean()) - 0.445) < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"area": (0.5, 0.2)},
        {"area": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"sigma": (0.0, 1.0)},
        {"jitter": (0.4, 0.4, 0.4, 0.6)},
        {"jitter": (1.0, 0, 0, 0)},
        {"grey_chance": 1.5},
    ],
)
def test_impossible_views_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match="chances" if name == "grey_chance" else name):
        CropAndColour(**wrong)


def test_the_crop_policy_is_a_crop_of_the_padded_image(faces: torch.Tensor):
    u = draws(40)
    x = faces.repeat(8, 1, 1, 1)
    seen = weak(x, u, "crop")
    moved = 0
    for face, numbers, found in zip(x, u.tolist(), seen, strict=True):
        image = face.flip(-1) if numbers[0] < 0.5 else face
        if numbers[12] < 0.5:
            padded = torch.nn.functional.pad(image, (1, 1, 1, 1))  # 1/28 of 32 pixels
            left, top = (2 - int(3 * number) for number in numbers[1:3])
            moved += 1
        expected = padded[:, top : top + 32, left : left + 32] if numbers[12] < 0.5 else image
        assert torch.allclose(found, expected, atol=1e-5)
    assert 10 < moved < 30
    assert torch.equal(strong(x, u, "crop"), weak(augmented(x, u), u, "crop"))


def augmented(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    choice = (u[:, 3:6] * len(augment.RAND_OPS)).long()
    return augment.cutout(augment.rand_augment(x, choice, u[:, 6:9]), u[:, 9:11], u[:, 11] / 2)
