"""Any image becomes float32 [channels, H, W] in [0, 1], or a reason why not."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from unitrans.domains.vision import DataConfig
from unitrans.domains.vision.reading import BrokenImageError, find_images, read_image
from unitrans.domains.vision.source import open_reader

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


# Every value is different and no high byte equals its low byte, so that a lost or swapped byte shows.
DEEP_COLOUR = np.random.default_rng(0).permutation(65536)[: 6 * 8 * 4].astype(np.uint16).reshape(6, 8, 4)
DEEP_COLOUR[:, :, 3] = np.where(ALPHA == 0, 0, 65535)


def write_png(path, pixels, colour_type, extra=b""):
    """A 16-bit PNG that uses the five filters in turn (PNG specification, section 9)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(len(pixels), -1).astype(int)
    width = pixels.shape[2] * 2
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = (np.pad(part, ((0, 0), (width, 0)))[:, :-width] for part in (rows, above))
    guess = left + above - corner
    near = np.stack([abs(guess - part) for part in (left, above, corner)]).argmin(0)
    predicted = [0, left, above, (left + above) // 2, np.choose(near, [left, above, corner])]
    lines = b""
    for row in range(len(rows)):
        kind = row % 5
        part = predicted[kind] if kind == 0 else predicted[kind][row]
        lines += bytes([kind]) + ((rows[row] - part) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def write_tiff(path, pixels, **options):
    options = {"photometric": "rgb"} | options
    tifffile.imwrite(path, pixels, **options)
    return path


DEEP_RGB = DEEP_COLOUR[:, :, :3]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_png(folder / "x.png", DEEP_RGB, 2),
        lambda folder: write_tiff(folder / "x.tif", DEEP_RGB, byteorder="<"),
        lambda folder: write_tiff(folder / "x.tif", DEEP_RGB, byteorder=">"),
        lambda folder: write_tiff(folder / "x.tif", DEEP_RGB, byteorder="<", compression="zlib"),
        lambda folder: write_tiff(folder / "x.tif", DEEP_RGB, byteorder=">", compression="zlib"),
        lambda folder: write_tiff(folder / "x.tif", DEEP_RGB, rowsperstrip=2),
        lambda folder: write_tiff(folder / "x.tif", np.moveaxis(DEEP_RGB, -1, 0), planarconfig="separate"),
    ],
    ids="png little big little-zlib big-zlib strips planar".split(),
)
def test_colour_of_16_bits_keeps_them_all(tmp_path, write):
    path = write(tmp_path)
    got = read_image(path, 3, "dtype")
    torch.testing.assert_close(got, tensor(DEEP_RGB / 65535), atol=1e-7, rtol=0)
    # A scan that uses 12 of its 16 bits.
    assert read_image(path, 3, (0, 4095)).unique().numel() > 3


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_png(folder / "x.png", DEEP_COLOUR, 6),
        lambda folder: write_tiff(folder / "x.tif", DEEP_COLOUR, extrasamples=["unassalpha"]),
    ],
    ids=["png", "tif"],
)
def test_colour_of_16_bits_with_alpha(tmp_path, write):
    path = write(tmp_path)
    kept = read_image(path, 4, "dtype")
    torch.testing.assert_close(kept, tensor(DEEP_COLOUR / 65535), atol=1e-7, rtol=0)
    seen = np.where(DEEP_COLOUR[:, :, 3:] == 0, 65535, DEEP_RGB) / 65535
    torch.testing.assert_close(read_image(path, 3, "dtype"), tensor(seen), atol=1e-7, rtol=0)


def test_16_bits_and_an_orientation(tmp_path):
    stored = np.ascontiguousarray(np.rot90(DEEP_RGB))  # orientation 6: to be turned back by 90 degrees
    path = write_tiff(tmp_path / "x.tif", stored, extratags=[(274, "H", 1, 6, True)])
    torch.testing.assert_close(read_image(path, 3, "dtype"), tensor(DEEP_RGB / 65535), atol=1e-7, rtol=0)


def test_grey_of_16_bits_where_0_is_white(tmp_path):
    path = write_tiff(tmp_path / "x.tif", DEEP, photometric="miniswhite")
    torch.testing.assert_close(read_image(path, 1, "dtype"), tensor(1 - DEEP / 65535))


def transparent_png(path):
    extra = struct.pack(">I", 6) + b"tRNS" + bytes(6) + struct.pack(">I", zlib.crc32(b"tRNS" + bytes(6)))
    return write_png(path, DEEP_RGB, 2, extra)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda folder: write_png(folder / "x.png", DEEP_COLOUR[:, :, 2:], 4), "16-bit grey with alpha"),
        (lambda folder: transparent_png(folder / "x.png"), "16-bit RGB in PNG"),
        (
            lambda folder: write_tiff(folder / "x.tif", DEEP_COLOUR, extrasamples=["assocalpha"]),
            "16-bit premultiplied alpha",
        ),
        (lambda folder: write_ppm(folder / "x.ppm"), "16-bit RGB in PPM"),
    ],
    ids=["grey-alpha", "transparent-colour", "premultiplied", "ppm"],
)
def test_16_bits_that_cannot_be_kept_are_refused(tmp_path, write, what):
    with pytest.raises(BrokenImageError, match=f"{what} cannot be read without losing bits: store"):
        read_image(write(tmp_path), 3, "dtype")


def write_ppm(path):
    path.write_bytes(b"P6 8 6 65535\n" + DEEP_RGB.astype(">u2").tobytes())
    return path


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_with_seven_channels(tmp_path, dtype, planarconfig):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 7)).astype(dtype)
    pixels = pixels / 255 if dtype == "float32" else pixels
    stored = pixels if planarconfig == "contig" else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    path = write_tiff(
        tmp_path / "x.tif", stored.astype(dtype), photometric="minisblack", planarconfig=planarconfig
    )
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    torch.testing.assert_close(read_image(path, 7, "dtype"), tensor(pixels / top))
    with pytest.raises(BrokenImageError, match=r"has 7 channels, data.channels is 3"):
        read_image(path, 3, "dtype")


def test_float_colour_tiff(tmp_path):
    path = write_tiff(tmp_path / "x.tif", (COLOUR / 255).astype(np.float32))
    torch.testing.assert_close(read_image(path, 3, "dtype"), tensor(COLOUR / 255))


def test_tiff_without_tifffile_names_the_pip_line(tmp_path, monkeypatch):
    pixels = np.zeros((6, 8, 7), np.uint8)
    path = write_tiff(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(BrokenImageError, match="pip install tifffile"):
        read_image(path, 7, "dtype")


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray((RAMP > 100).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "p.png", transparency=0)
    expected = np.where((RAMP > 100)[..., None], [200, 100, 50], 255) / 255
    torch.testing.assert_close(read_image(tmp_path / "p.png", 3, "dtype"), tensor(expected))


def test_four_channels_keep_alpha(tmp_path):
    path = saved(tmp_path, RGBA, "x.png")
    torch.testing.assert_close(read_image(path, 4, "dtype"), tensor(np.array(RGBA) / 255))


@pytest.mark.parametrize(
    ("image", "seen"), [(Image.fromarray(COLOUR), COLOUR), (Image.fromarray(RAMP), None)]
)
def test_four_channels_without_alpha_are_opaque(tmp_path, image, seen):
    seen = np.repeat(RAMP[..., None], 3, -1) if seen is None else seen
    opaque = np.concatenate([seen, np.full_like(seen[..., :1], 255)], -1)
    torch.testing.assert_close(read_image(saved(tmp_path, image, "x.png"), 4, "dtype"), tensor(opaque / 255))


def test_an_array_of_three_channels_gets_no_alpha(tmp_path):
    np.save(tmp_path / "x.npy", COLOUR)
    with pytest.raises(BrokenImageError, match="has 3 channels, data.channels is 4"):
        read_image(tmp_path / "x.npy", 4, "dtype")


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
    (tmp_path / "self.png").symlink_to("self.png")  # named as unreadable when it is read
    listing = find_images(tmp_path)
    assert listing.ids == ["a/10.jpg", "a/2.JPG", "a/deep/er/x.tiff", "b.png", "link/o.png", "self.png"]
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


def test_a_name_is_one_line(tmp_path):
    saved(tmp_path, GREY, "two\nlines\t.png")
    saved(tmp_path, GREY, "schön 图.png")
    assert sorted(find_images(tmp_path).ids) == ["schön 图.png", "two\\nlines\\t.png"]


def test_pages_of_a_tiff(tmp_path, capfd):
    """As channels where there are as many; else the first one, which is said."""
    stack = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5) * 500
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    want = torch.from_numpy(stack.astype(np.float64) / 65535).float()
    torch.testing.assert_close(read_image(tmp_path / "stack.tif", 4, "dtype"), want)
    torch.testing.assert_close(read_image(tmp_path / "stack.tif", 1, "dtype"), want[:1])
    config = {"path": str(tmp_path), "validation": "none", "image_size": 4, "mean": "auto", "std": "auto"}
    for channels, notes in ((1, ["stack.tif has 4 pages: the first page of each file is read"]), (4, [])):
        _, found, _ = open_reader(str(tmp_path), DataConfig(**config, channels=channels), "data.path")
        assert len(found) == len(notes) and all(map(str.startswith, found, notes))
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(stack[0], photometric="minisblack")
        writer.write(np.zeros((6, 5, 3), np.uint8), photometric="rgb")
    with pytest.raises(BrokenImageError, match="page 2 is not grey as the first is, but RGB"):
        read_image(tmp_path / "mixed.tif", 2, "dtype")
    tifffile.imwrite(
        tmp_path / "deep.tif",
        np.zeros((6, 5, 13), np.uint16),
        photometric="minisblack",
        planarconfig="contig",
    )
    assert read_image(tmp_path / "deep.tif", 13, "dtype").shape == (13, 6, 5)
    assert capfd.readouterr().err == ""  # Pillow says nothing about what it cannot decode
