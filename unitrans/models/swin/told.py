"""What shapes tell of a Swin, and what they do not: the size of images only by what it decides."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.models._image_weights import image_fields, plain, set_square, width_of_index
from unitrans.models._weights import numbers
from unitrans.models.images import pair
from unitrans.models.swin.config import SwinConfig
from unitrans.models.swin.sizes import SIZES, SIZES_V2

#: The window of a stage and, for V2, that of its pretraining.
Window = tuple[tuple[int, int], tuple[int, int] | None]


def told_fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], rules: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of the configuration that the shapes tell, and what they do not tell -> a word on what it is.

    Args:
        own: tensors by our names of the bare encoder.
        weights: all, by theirs.
        rules: pad_mode and window_clamp of their code base.
    """
    fields = image_fields(own)
    untold: dict[str, str] = {}
    stages = numbers(own, r"layers\.(\d+)\.")
    blocks = "layers.{}.blocks.{}."
    depths = [len(numbers(own, rf"layers\.{stage}\.blocks\.(\d+)\.")) for stage in stages]
    first = own[blocks.format(0, 0) + "mlp.fc1.weight"]
    fields |= {"depths": depths, "mlp_ratio": first.shape[0] / first.shape[1]}
    attn = blocks.format(0, 0) + "attn."
    fields["qkv_bias"] = attn + "qkv.bias" in own or attn + "q_bias" in own
    fields["patch_norm"] = "patch_embed.norm.weight" in own
    v2 = attn + "logit_scale" in own
    heads = "attn.logit_scale" if v2 else "attn.position_bias.relative_position_bias_table"
    if v2 or attn + "position_bias.relative_position_bias_table" in own:
        fields["num_heads"] = [own[blocks.format(s, 0) + heads].shape[0 if v2 else 1] for s in stages]
    else:
        fields["relative_position"] = "none"
        untold["num_heads"] = "heads of each stage"
    if v2:
        norm = blocks.format(0, 0) + "norm3.weight"
        if norm in own or any(name.endswith(".norm3.weight") for name in own):
            fields["extra_norm_period"] = 1 + numbers(own, r"layers\.\d+\.blocks\.(\d+)\.norm3\.")[0]
    norms = numbers(own, r"out_norms\.(\d+)\.")
    if norms:
        fields |= {"out_indices": norms, "out_stem": "out_norms.stem.weight" in own}
    ape = own.get("absolute_pos_embed")
    if ape is not None:
        fields["ape"] = True
        set_square(fields, untold, ape.shape[1], fields["patch_size"])
    windows = _windows_of_coordinates(weights) if v2 else _windows_of_tables(own, weights, stages)
    published = [
        size
        for size in (SIZES_V2 if v2 else SIZES).values()
        if (size["embed_dim"], list(size["depths"])) == (fields["embed_dim"], depths)
    ]
    if windows:
        fields["window_size"] = plain(windows[0][0])
        if v2:
            fields["pretrained_window_sizes"] = [plain(trained or (0, 0)) for _, trained in windows]
        if ape is None:
            _set_image(fields, untold, [size for size, _ in windows], weights, published, rules)
        return fields, untold
    untold["window_size"] = "side of a window in patches" + _such_as(published, "window_size")
    if ape is None:
        untold["image_size"] = "pixels per side" + _such_as(published, "image_size")
    if any(any(size.get("pretrained_window_sizes", ())) for size in published):
        several = _such_as(published, "pretrained_window_sizes")
        untold["pretrained_window_sizes"] = f"windows of pretraining, zeros where it is the same{several}"
    return fields, untold


def _such_as(published: list[dict[str, Any]], name: str) -> str:
    values = list(dict.fromkeys(str(size[name]) for size in published))
    return f", published: {' or '.join(values)}" if values else ""


def _windows_of_tables(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], stages: list[int]
) -> list[Window]:
    """The windows of all stages by the rows of their tables, (2h - 1)(2w - 1); an index, where it is there, tells
    sides that differ."""
    found: list[Window] = []
    indices = {name: tensor for name, tensor in weights.items() if name.endswith("relative_position_index")}
    for stage in stages:
        rows = own[f"layers.{stage}.blocks.0.attn.position_bias.relative_position_bias_table"].shape[0]
        side = math.isqrt(rows)
        if side * side == rows:
            found.append((((side + 1) // 2,) * 2, None))
            continue
        index = next((t for n, t in indices.items() if re.search(rf"layers\.{stage}\.", n)), None)
        if index is None:
            return []
        width = width_of_index(index)
        found.append((((rows // (2 * width - 1) + 1) // 2, width), None))
    return found


def _windows_of_coordinates(weights: Mapping[str, Tensor]) -> list[Window]:
    """(window, window of pretraining) of all stages, by V2's tables of coordinates: sign(x) log2(1 + 8 |x|) / 3 with
    x = offset / (window of pretraining - 1). None where the weights hold no such tables."""
    tables = {
        int(m.group(1)): tensor
        for name, tensor in weights.items()
        if (m := re.search(r"(?:layers|features)\.(\d+)\.(?:blocks\.)?0\.att.*relative_coords_table$", name))
    }
    found: list[Window] = []
    for stage in sorted(tables):
        table = tables[stage].double()
        window = ((table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2)
        trained = []
        for axis, size in enumerate(window):
            largest = (2 ** (3 * float(table[..., axis].max())) - 1) / 8
            trained.append(size if size == 1 else round((size - 1) / largest) + 1)
        same = tuple(trained) == window
        found.append((window, (0, 0) if same else (trained[0], trained[1])))
    return found


def _set_image(
    fields: dict[str, Any],
    untold: dict[str, str],
    windows: list[tuple[int, int]],
    weights: Mapping[str, Tensor],
    published: list[dict[str, Any]],
    rules: Mapping[str, Any],
) -> None:
    """image_size, which decides how windows are cut and where they are shifted: the published one, or any where all
    that explain the windows decide the same."""
    made = {name: fields[name] for name in ("patch_size", "depths", "window_size")}
    heads: dict[str, Any] = {"embed_dim": 1, "num_heads": [1] * len(windows)}
    config: Any = SwinConfig(**made, **heads, **rules)
    patch, across = config.patch_size, 2 ** (config.num_stages - 1)
    mask = next(
        (t for name, t in weights.items() if re.search(r"layers\.0\.blocks\.\d+\.attn_mask$", name)), None
    )
    count = 0 if mask is None else math.isqrt(mask.shape[0])
    count = count if mask is not None and count**2 == mask.shape[0] and len(set(windows[0])) == 1 else 0
    sides: list[dict[Any, list[int]]] = [{}, {}]  # of each axis: shifts -> sizes that explain the windows
    largest = max(max(windows[0]) * across + 1, count * windows[0][0])
    for side in range(1, largest + 1):
        config.image_size = side * patch
        for axis, found in enumerate(sides):
            stages = config.window_rules
            fits = all(
                stage.size[axis] == window[axis] for stage, window in zip(stages, windows, strict=True)
            )
            if fits and count in (0, -(-side // windows[0][axis])):
                found.setdefault(tuple(stage.shift[axis] for stage in stages), []).append(side)
    known = {
        size["image_size"]
        for size in published
        if all(any(size["image_size"] // patch in fit for fit in found.values()) for found in sides)
        and pair(size["window_size"], "window_size") == windows[0]
    }
    if len(known) == 1:
        fields["image_size"] = known.pop()
    elif all(len(found) == 1 for found in sides):
        (high,), (wide,) = (found.values() for found in sides)
        square = [side for side in high if side in wide]
        tiled = max(windows[0]) * across
        if square:
            fields["image_size"] = patch * (tiled if tiled in square and not count else square[-1])
        else:
            fields["image_size"] = [patch * high[-1], patch * wide[-1]]
    else:
        ranges = [_range([side * patch for side in fit], largest * patch) for fit in sides[0].values()]
        untold["image_size"] = (
            "pixels per side, or [height, width], by which it is known where windows are shifted"
            + (f": {', or '.join(ranges)}" if ranges else "")
        )


def _range(sizes: list[int], largest: int) -> str:
    if sizes[-1] == largest:
        return f"{sizes[0]} or more"
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
