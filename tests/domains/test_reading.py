"""Any image becomes float32 [channels, H, W] in [0, 1], or a reason why not."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.domains.vision.reading import BrokenImageError, find_images, read_image

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5  # 6 rows, 8 columns, 0 .. 235
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=-1)


def saved(tmp_path, image, name):
    image.save(tmp_path / name)
    return tmp_path / name


def tensor(array):
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def luminance(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114])


GREY, RGB = Image.fromarray(RAMP), Image.fromarray(COLOUR)
PALETTE = RGB.quantize(256, method=Image.Quantize.MEDIANCUT)
ALPHA = np.where(np.arange(8) < 4, 0, 255).astype(np.uint8)[None].repeat(6, 0)
SEEN = np.where(ALPHA[..., None] == 0, 255, COLOUR)  # left half transparent: white shows
SEEN_GREY = np.where(ALPHA == 0, 255, RAMP)
RGBA = Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None]], -1))
LA = Image.merge("LA", [GREY, Image.fromarray(ALPHA)])
BILEVEL = Image.fromarray(RAMP > 100)
CMYK = RGB.convert("CMYK")
DEEP = RAMP.astype(np.uint16) * 273
FLOAT = RAMP.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", GREY, RAMP / 255),
        ("grey.tif", GREY, RAMP / 255),
        ("colour.png", RGB, COLOUR / 255),
        ("colour.bmp", RGB, COLOUR / 255),
        ("UPPER.PNG", RGB, COLOUR / 255),
        ("palette.png", PALETTE, np.array(PALETTE.convert("RGB")) / 255),
        ("palette.gif", PALETTE, np.array(PALETTE.convert("RGB")) / 255),
        ("rgba.png", RGBA, SEEN / 255),
        ("la.png", LA, SEEN_GREY / 255),
        ("bilevel.png", BILEVEL, (RAMP > 100) * 1.0),
        ("cmyk.tif", CMYK, np.array(CMYK.convert("RGB")) / 255),
        ("deep.png", Image.fromarray(DEEP), DEEP / 65535),
        ("deep.tif", Image.fromarray(DEEP), DEEP / 65535),
        ("float.tif", Image.fromarray(FLOAT), FLOAT),
        ("lab.tif", RGB.convert("YCbCr"), np.array(RGB.convert("YCbCr").convert("RGB")) / 255),
    ],
)
def test_modes(tmp_path, name, image, expected):
    path = saved(tmp_path, image, name)
    grey = expected.ndim == 2
    got = read_image(path, 3, "dtype")
    assert got.dtype == torch.float32 and got.shape == (3, 6, 8) and got.is_contiguous()
    torch.testing.assert_close(got, tensor(np.repeat(expected[..., None], 3, -1) if grey else expected))
    got = read_image(path, 1, "dtype")
    assert got.shape == (1, 6, 8)
    torch.testing.assert_close(got, tensor(expected if grey else luminance(expected)))


def test_big_endian_16_bit(tmp_path):
    path = tmp_path / "big.tif"
    Image.frombytes("I;16B", (8, 6), DEEP.astype(">u2").tobytes()).save(path)
    torch.testing.assert_close(read_image(path, 1, "dtype"), tensor(DEEP / 65535))


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray((RAMP > 100).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "p.png", transparency=0)
    expected = np.where((RAMP > 100)[..., None], [200, 100, 50], 255) / 255
    torch.testing.assert_close(read_image(tmp_path / "p.png", 3, "dtype"), tensor(expected))


def test_four_channels_keep_alpha(tmp_path):
    path = saved(tmp_path, RGBA, "x.png")
    torch.testing.assert_close(read_image(path, 4, "dtype"), tensor(np.array(RGBA) / 255))


def test_jpeg_cmyk_is_close(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 60, 90)).convert("CMYK")
    path = tmp_path / "x.jpg"
    flat.save(path, quality=95)
    got = read_image(path, 3, "dtype").mean((1, 2)) * 255
    torch.testing.assert_close(got, torch.tensor([200.0, 60, 90]), atol=4, rtol=0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    """Four corners of different grey; the tag says which stored corner is the top left one that is seen."""
    corners = np.array([[0, 80], [160, 255]], dtype=np.uint8).repeat(8, 0).repeat(16, 1)
    stored = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](corners)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    torch.testing.assert_close(read_image(path, 1, "dtype"), tensor(corners / 255), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [
        ("dtype", DEEP / 65535),
        ((0, 4095), np.clip(DEEP / 4095, 0, 1)),
        ((1000, 2000), np.clip((DEEP - 1e3) / 1e3, 0, 1)),
    ],
)
def test_value_range(tmp_path, value_range, expected):
    path = saved(tmp_path, Image.fromarray(DEEP), "x.png")
    torch.testing.assert_close(read_image(path, 1, value_range), tensor(expected))


def test_percentile(tmp_path):
    values = np.linspace(-1000, 3000, 201 * 5, dtype=np.float32).reshape(5, 201)
    values[0, 0], values[-1, -1] = -1e6, 1e6  # two hot pixels must not set the range
    np.save(tmp_path / "ct.npy", values)
    got = read_image(tmp_path / "ct.npy", 1, "percentile")
    low, high = np.percentile(values, (0.5, 99.5))
    torch.testing.assert_close(got, tensor(np.clip((values - low) / (high - low), 0, 1)), atol=1e-6, rtol=0)
    assert got.min() == 0 and got.max() == 1 and 0.45 < got.median() < 0.55


@pytest.mark.parametrize("value_range", ["percentile", (0.0, 2.0)])
def test_constant_image_is_finite(tmp_path, value_range):
    np.save(tmp_path / "x.npy", np.full((4, 4), 1.0, np.float32))
    assert set(read_image(tmp_path / "x.npy", 1, value_range).unique().tolist()) <= {0.0, 0.5}


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            np.array([[0.0, 1.5]], np.float32),
            r"float images must be in \[0, 1\].*float32 values from 0 to 1.5",
        ),
        (np.array([[-0.1, 0.5]]), r"float images must be in \[0, 1\].*float64"),
        (np.array([[-1000, 3000]], np.int16), "negative values.*int16 values from -1000 to 3000"),
        (np.array([[0, 5000]], np.uint32), "32-bit integers seldom"),
    ],
)
def test_dtype_range_that_does_not_fit_is_a_config_error(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=words + r".*percentile or data.value_range=\[lo,hi\]"):
        read_image(tmp_path / "x.npy", 1, "dtype")


def test_float_tiff_out_of_range(tmp_path):
    path = saved(tmp_path, Image.fromarray(FLOAT * 100), "x.tif")
    with pytest.raises(ValueError, match=r"data.value_range=dtype does not fit .*x.tif"):
        read_image(path, 1, "dtype")
    torch.testing.assert_close(read_image(path, 1, (0, 100)), tensor(FLOAT))


@pytest.mark.parametrize(
    ("array", "value_range", "expected"),
    [
        (COLOUR, "dtype", COLOUR / 255),
        (RAMP > 100, "dtype", (RAMP > 100) * 1.0),
        (DEEP.astype(">u2"), "dtype", DEEP / 65535),
        (DEEP.astype(np.int32), (0, 65535), DEEP / 65535),
        (FLOAT.astype(np.float16), "dtype", FLOAT.astype(np.float16)),
    ],
)
def test_npy(tmp_path, array, value_range, expected):
    np.save(tmp_path / "x.npy", array)
    torch.testing.assert_close(
        read_image(tmp_path / "x.npy", 1 if array.ndim == 2 else 3, value_range), tensor(expected)
    )


def test_npy_with_thirteen_channels(tmp_path):
    array = np.random.default_rng(0).random((5, 7, 13), dtype=np.float32)
    np.save(tmp_path / "x.npy", array)
    assert torch.equal(read_image(tmp_path / "x.npy", 13, "dtype"), tensor(array))


def test_broken_files_give_a_reason(tmp_path, write_broken):
    for name, words in write_broken(tmp_path).items():
        with pytest.raises(BrokenImageError, match=words) as error:
            read_image(tmp_path / name, 3, "dtype")
        assert "\n" not in str(error.value)


def test_finding(tmp_path):
    for name in (
        "b.png",
        "a/2.JPG",
        "a/10.jpg",
        "a/deep/er/x.tiff",
        ".hidden.png",
        ".git/y.png",
        "c.csv",
        "d",
        "e.CSV",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "Alias").symlink_to(tmp_path / "a" / "deep")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "o.png").write_bytes(b"")
    (outside / "back").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(outside)
    listing = find_images(tmp_path)
    assert listing.ids == ["a/10.jpg", "a/2.JPG", "a/deep/er/x.tiff", "b.png", "link/o.png"]
    assert listing.paths == listing.ids
    assert listing.ignored == {".csv": 2, "no suffix": 1}
    assert listing.unreadable == []


def test_names_that_are_not_utf8(tmp_path):
    strange = os.path.join(os.fsencode(tmp_path), b"\xff.png")
    GREY.save(os.path.join(tmp_path, "x.png"))
    os.rename(os.path.join(os.fsencode(tmp_path), b"x.png"), strange)
    listing = find_images(tmp_path)
    assert listing.ids == ["\\xff.png"]
    listing.ids[0].encode("utf-8")
    assert read_image(tmp_path / listing.paths[0], 1, "dtype").shape == (1, 6, 8)
