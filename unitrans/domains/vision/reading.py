"""Finds image files and reads them into float32 arrays in [0, 1], whatever their size and mode."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from unitrans.domains.places import is_kernels
from unitrans.domains.vision.config import MAX_PIXELS

ValueRange = Literal["dtype", "percentile"] | tuple[float, float]

IMAGE_SUFFIXES = frozenset(
    "." + suffix
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "tif", "tiff", "webp", "avif"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "tga", "jp2", "j2k", "npy"),
    )
)
# Pillow reports layouts it does not know on the screen, once per file; they are read by tifffile.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

# The weights of ITU-R BT.601, which Pillow uses for mode L too.
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


class BrokenImageError(Exception):
    """This file cannot be used; the message says why. The run goes on without it."""


class OutOfRangeError(BrokenImageError, ValueError):
    """The stored values do not fit data.value_range; the message says which setting reads them."""


@dataclass
class Listing:
    """What is in a folder. ids: relative POSIX paths, sorted; paths: the same, as the file system spells
    them; ignored: how many other files there are, by suffix; unreadable: (folder, reason)."""

    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def find_images(root: Path) -> Listing:
    """Every image file below ``root``, at any depth, in one order that depends on the names alone.

    Hidden files and folders are left out. Links to folders are followed; a folder reached twice (a loop, or
    a link to a folder that is listed anyway) is read once, under its real place if that is below ``root``.
    """
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    links: list[str] = []

    def walk(folder: str) -> None:
        try:
            status = os.stat(root / folder)
            key = (status.st_dev, status.st_ino)
            if key in seen:
                return
            if is_kernels(status.st_dev):
                listing.unreadable.append((folder or ".", "a file system of the kernel"))
                return
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            listing.unreadable.append((folder or ".", error.strerror or str(error)))
            return
        seen.add(key)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = str(PurePosixPath(folder, entry.name))
            if entry.is_dir(follow_symlinks=False):
                walk(path)
            elif entry.is_symlink() and os.path.isdir(entry):  # entry.is_dir() fails for a link to itself
                links.append(path)
            else:
                _add_file(listing, path)

    walk("")
    while links:  # after the real folders, so that a link never takes the place of what it points to
        walk(links.pop(0))
    listing.paths.sort(key=_printable)
    listing.ids = [_printable(path) for path in listing.paths]
    return listing


def _add_file(listing: Listing, path: str) -> None:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        listing.paths.append(path)
    else:
        listing.ignored[_printable(suffix) or "no suffix"] += 1


def _printable(path: str) -> str:
    """The path as one line of text that can be printed and hashed: bytes that are not UTF-8 become \\xNN, and a
    line break or another sign that cannot be seen its escape."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text
    )


def read_image(
    path: Path, channels: int, value_range: ValueRange, max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """The image as float32 [channels, H, W] in [0, 1]: first frame, EXIF orientation applied.

    A TIFF of as many grey pages as ``channels`` (more than one) is one image with a channel from every page.

    Palettes are looked up; CMYK and other colour spaces become RGB. Transparent images are laid on white,
    as a page shows them (the colour stored under a transparent pixel is arbitrary), unless ``channels`` is
    4: then RGBA stays, and images without alpha are opaque (arrays are not images: they must have 4). Grey
    becomes 3 channels by repetition, colour becomes 1 channel by luminance (ITU-R BT.601). PNG and TIFF files
    keep all their bits, as float images do; where that cannot be done they are refused. Colour of more than 8
    bits in JPEG 2000 and AVIF is read as 8 bits. .npy files hold [H, W] or [H, W, channels] of any real type,
    as do TIFF files of which Pillow does not know the layout (read by tifffile).

    Raises BrokenImageError for a file that cannot be decoded, has other channels or more than ``max_pixels``, and its
    OutOfRangeError when ``value_range`` does not fit the data: one such file among many is left out like a broken one.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BrokenImageError("not a regular file")
        pixels = (
            _read_npy(path, max_pixels)
            if path.suffix.lower() == ".npy"
            else _read_pillow(path, channels, max_pixels)
        )
    except BrokenImageError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything, EOFError to struct.error
        raise BrokenImageError(_reason(error)) from error
    if 0 in pixels.shape:
        raise BrokenImageError(f"has no pixels (shape {list(pixels.shape)})")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise BrokenImageError("contains NaN or infinite values")
    image = _to_unit_range(pixels, value_range, path)
    if channels == 4 and image.shape[0] in (1, 3) and path.suffix.lower() != ".npy":  # opaque
        image = torch.cat([_to_channels(image, 3), torch.ones_like(image[:1])])
    return _to_channels(image, channels)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels for Pillow to decode safely, whatever data.max_pixels ({error}): make it smaller"
    if isinstance(error, UnidentifiedImageError):
        return "not an image Pillow can read (empty, truncated or another format)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _read_npy(path: Path, max_pixels: int) -> np.ndarray:
    pixels = _as_pixels(np.load(path, allow_pickle=False))
    _check_pixels(pixels.shape[1], pixels.shape[0], max_pixels)
    return pixels


def _as_pixels(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] in the byte order of this machine."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3:
        shape = list(pixels.shape)
        raise BrokenImageError(f"expected an array [H, W] or [H, W, channels], got shape {shape}")
    if pixels.dtype.kind not in "buif":
        raise BrokenImageError(f"expected real numbers, got dtype {pixels.dtype}")
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * np.uint8(255)  # as Pillow reads 1-bit files
    return np.asarray(pixels, dtype=pixels.dtype.newbyteorder("="))


def _read_pillow(path: Path, channels: int, max_pixels: int) -> np.ndarray:
    """[H, W, C] in the stored type, C = 1, 3 or (only if asked for) 4."""
    # A stream, not a path: Pillow 13 maps uncompressed TIFFs into memory by name, and then mixes up rows and
    # columns where the orientation tag swaps them.
    with path.open("rb") as stream:
        try:
            file = Image.open(stream)
        except UnidentifiedImageError:
            if _is_tiff(stream):
                return _read_tifffile(stream, max_pixels)
            raise
        with file:
            _check_pixels(file.width, file.height, max_pixels)
            if channels > 1 and pages_of(file) == channels and _is_grey(file):
                return np.concatenate([_grey_page(file, page) for page in range(channels)], axis=2)
            if _is_deep_colour(file):
                return _read_deep_colour(file, stream, channels, max_pixels)
            if _is_grey(file):
                return _grey_page(file, 0)
            picture: Image.Image = ImageOps.exif_transpose(file)
        mode = picture.mode
        if picture.has_transparency_data:
            rgba = picture.convert("RGBA")
            if channels == 4:
                return np.array(rgba)
            white = Image.new("RGBA", rgba.size, "white")
            picture = Image.alpha_composite(white, rgba).convert("L" if mode == "LA" else "RGB")
            mode = picture.mode
        return np.array(picture)[:, :, None] if mode == "L" else np.array(picture.convert("RGB"))


def _check_pixels(width: int, height: int, limit: int) -> None:
    """Before anything is decoded: a small file may hold a large picture."""
    if width * height > limit:
        raise BrokenImageError(
            f"its {width:,} x {height:,} pixels are more than data.max_pixels={limit}: make it smaller, or raise that"
        )


def pages_of(file: Image.Image) -> int:
    """The pages of a TIFF; 1 for other images, whose frames are an animation."""
    return int(getattr(file, "n_frames", 1)) if isinstance(file, TiffImageFile) else 1


def _is_grey(file: Image.Image) -> bool:
    grey = file.mode in ("1", "L", "I", "F") or file.mode.startswith("I;16")
    return grey and not file.has_transparency_data


def _grey_page(file: ImageFile.ImageFile, page: int) -> np.ndarray:
    """[H, W, 1] in the stored type."""
    if page:
        file.seek(page)
    if not _is_grey(file):
        raise BrokenImageError(f"page {page + 1} is not grey as the first is, but {file.mode}")
    inverted = file.mode == "I;16" and _tiff_tag(file, "PhotometricInterpretation") == 0
    picture: Image.Image = ImageOps.exif_transpose(file)
    pixels = np.array(picture.convert("L") if picture.mode == "1" else picture)  # 1 bit: 0 and 255
    if inverted:  # 0 is white; Pillow sees to that in 8 bits, not in 16
        pixels = np.iinfo(pixels.dtype).max - pixels
    return np.asarray(pixels, dtype=pixels.dtype.newbyteorder("="))[:, :, None]


def _raw_mode(file: ImageFile.ImageFile) -> str:
    """How Pillow is about to unpack the stored pixels, such as "RGB;16B"."""
    args = file.tile[0].args if file.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


_TIFF_TAGS = {"BitsPerSample": 258, "PhotometricInterpretation": 262, "PlanarConfiguration": 284}


def _tiff_tag(file: ImageFile.ImageFile, name: str) -> Any:
    """The value of a tag of a TIFF, None where there is none."""
    return file.tag_v2.get(_TIFF_TAGS[name]) if isinstance(file, TiffImageFile) else None


def _is_deep_colour(file: ImageFile.ImageFile) -> bool:
    """Whether the file stores colour (or grey with alpha) in more than 8 bits, which Pillow would cut down to 8."""
    if file.mode not in ("RGB", "RGBA", "CMYK", "LAB"):
        return False
    if file.format == "PPM":
        args: Any = file.tile[0].args
        return isinstance(args, tuple) and isinstance(args[1], int) and args[1] > 255
    return ";16" in _raw_mode(file) or max(_tiff_tag(file, "BitsPerSample") or (8,)) > 8


def _read_deep_colour(
    file: ImageFile.ImageFile, stream: BinaryIO, channels: int, max_pixels: int
) -> np.ndarray:
    """uint16 [H, W, C], C = 3 or (only if asked for) 4.

    Pillow keeps the high byte of each value; told that the bytes are in the other order, it keeps the low one.
    """
    if _tiff_tag(file, "PlanarConfiguration") == 2:
        return _read_tifffile(stream, max_pixels)
    kind, _, order = _raw_mode(file).partition(";16")
    if kind not in ("RGB", "RGBX", "RGBA") or order not in _OTHER_ORDER or "transparency" in file.info:
        what = {"LA": "grey with alpha", "RGBa": "premultiplied alpha"}.get(
            kind, f"{file.mode} in {file.format}"
        )
        raise BrokenImageError(
            f"16-bit {what} cannot be read without losing bits: store 16-bit RGB, RGBA or grey as .png or .tif"
        )
    high = np.array(ImageOps.exif_transpose(file))
    stream.seek(0)
    with Image.open(stream) as again:
        again.tile = [tile._replace(args=_in_other_order(tile.args)) for tile in again.tile]
        low = np.array(ImageOps.exif_transpose(again))
    pixels = high.astype(np.uint16) << 8 | low
    if pixels.shape[2] == 4 and channels != 4:  # on white
        alpha = pixels[:, :, 3:] / 65535.0
        pixels = np.rint(pixels[:, :, :3] * alpha + 65535.0 * (1.0 - alpha)).astype(np.uint16)
    return pixels


_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _in_other_order(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_in_other_order(args[0]), *args[1:])
    return args[:-1] + _OTHER_ORDER[args[-1]]


def _is_tiff(stream: BinaryIO) -> bool:
    stream.seek(0)
    return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _read_tifffile(stream: BinaryIO, max_pixels: int) -> np.ndarray:
    """[H, W, C] of the first page of a TIFF in any layout, in the stored type."""
    try:
        import tifffile
    except ImportError:
        raise BrokenImageError(
            "a TIFF layout that Pillow does not know (more than 4 channels?): pip install tifffile"
        ) from None
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        _check_pixels(page.imagewidth, page.imagelength, max_pixels)
        pixels, axes = page.asarray(), page.axes
        if page.tags.valueof("Orientation", 1) != 1:
            raise BrokenImageError(
                "a TIFF layout that Pillow does not know, and rotated by an orientation tag"
            )
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise BrokenImageError(f"expected rows, columns and channels, got the axes {axes}")
    return _as_pixels(pixels)


def _to_unit_range(pixels: np.ndarray, value_range: ValueRange, path: Path) -> torch.Tensor:
    """float32 [C, H, W] in [0, 1] from stored values [H, W, C]."""
    kind, bits = pixels.dtype.kind, pixels.dtype.itemsize * 8
    if value_range == "dtype":
        low, high = 0.0, float(np.iinfo(pixels.dtype).max) if kind in "ui" else 1.0
        if kind in "ui" and bits > 16:
            _refuse_dtype(path, pixels, f"{bits}-bit integers seldom use their whole range")
        if kind in "if" and (pixels.min() < 0 or pixels.max() > high):
            _refuse_dtype(
                path, pixels, "float images must be in [0, 1]" if kind == "f" else "negative values"
            )
    elif value_range == "percentile":
        low, high = (float(value) for value in np.percentile(pixels, (0.5, 99.5)))
    else:
        low, high = value_range
    if kind == "u" and bits == 8:
        image = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32)
    else:  # float64 on the way: 32-bit integers and large offsets do not fit float32
        image = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)
    scale = 1.0 / (high - low) if high > low else 0.0
    return image.sub(low).mul_(scale).clamp_(0.0, 1.0).to(torch.float32)


def _refuse_dtype(path: Path, pixels: np.ndarray, why: str) -> None:
    raise OutOfRangeError(
        f"data.value_range=dtype does not fit {path}: {why}, and it has {pixels.dtype} values from "
        f"{pixels.min():g} to {pixels.max():g}; use data.value_range=percentile or data.value_range=[lo,hi]"
    )


def _to_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """[C, H, W] with C = ``channels``; contiguous."""
    if image.shape[0] == channels:
        return image.contiguous()
    if image.shape[0] == 1 and channels == 3:
        return image.repeat(3, 1, 1)
    if image.shape[0] == 3 and channels == 1:
        return (image * _LUMINANCE).sum(0, keepdim=True)
    raise BrokenImageError(f"has {image.shape[0]} channels, data.channels is {channels}")
