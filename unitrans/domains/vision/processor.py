"""preprocessor_config.json of transformers: how images of a run are read, for its image processors and from theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROCESSOR_FILE = "preprocessor_config.json"


def processor_of(reading: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The content of the file for what a run keeps about its images, and sentences on what it cannot say."""
    size = reading["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    part, stretched = reading["eval_crop"], reading["eval_fit"] == "stretch"
    if stretched:
        before = {"height": round(height / part), "width": round(width / part)}
    else:
        before = {"shortest_edge": round(min(height, width) / part)}
    notes = []
    if not stretched and height != width:
        notes.append(f"data.image_size={[height, width]} is not square, and it crops a square to that")
    if reading["value_range"] != "dtype":
        notes.append(f"data.value_range={reading['value_range']} is not known there, and it divides by 255")
    if reading["channels"] != 3:
        notes.append(f"its pipelines read files in 3 channels, and the model takes {reading['channels']}")
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": before,
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": reading["channels"] == 3,
        "image_mean": list(reading["mean"]),
        "image_std": list(reading["std"]),
    }, [f"{PROCESSOR_FILE} of transformers does not say all: {note}" for note in notes]


def crop_of(processor: Mapping[str, Any]) -> dict[str, Any] | None:
    """eval_crop and eval_fit of such a file; None where it does not tell."""
    size, crop = processor.get("size"), processor.get("crop_size")
    if not isinstance(size, Mapping):
        return None
    cut = crop if isinstance(crop, Mapping) and processor.get("do_center_crop") else size
    whole, side = size.get("shortest_edge", size.get("height")), cut.get("height", cut.get("shortest_edge"))
    if not isinstance(whole, int) or not isinstance(side, int) or not 0 < side <= whole:
        return None
    return {"eval_crop": side / whole, "eval_fit": "crop" if "shortest_edge" in size else "stretch"}
