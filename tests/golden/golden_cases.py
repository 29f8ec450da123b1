"""Which golden cases there are, and which of our models each one is for."""

import json
import os
import re
from pathlib import Path
from typing import Any

GOLDEN = Path(os.environ.get("UNITRANS_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def vision_cases() -> list[tuple[str, str, str, str]]:
    """(folder, kind, layout, family) of every case of Swin, Swin V2 and ViT, told by meta.json.

    kind: classifier, encoder, masked (SimMIM) or backbone; layout as in `unitrans.models.convert`; family: swin, swinv2
    or vit. At least the cases that the project was written against, so that they skip with a reason where they miss.
    """
    cases = dict.fromkeys(KNOWN)
    for file in sorted(GOLDEN.glob("*/meta.json")):
        meta = json.loads(file.read_text())
        told = classify(meta) if isinstance(meta.get("constructor"), dict) and "kind" not in meta else None
        if told is not None:
            cases[(file.parent.name, *told)] = None
    return list(cases)


KNOWN = [
    ("01a_swin_v1_ms", "classifier", "official", "swin"),
    ("02b_swin_v1_hf_pad_60x44_w4", "classifier", "hf5", "swin"),
    ("03a_swin_v1_timm", "classifier", "timm", "swin"),
    ("04a_swin_v2_ms", "classifier", "official", "swinv2"),
    ("05b_swin_v2_timm", "classifier", "timm", "swinv2"),
    ("06a_simmim_swin_v1_ms", "masked", "official", "swin"),
    ("06b_simmim_swin_v2_ms_normtarget", "masked", "official", "swinv2"),
    ("11d_vit_timm", "classifier", "timm", "vit"),
    ("13a_beit_ms_relpos_rect", "classifier", "official", "vit"),
]


def classify(meta: dict[str, Any]) -> tuple[str, str, str] | None:
    """(kind, layout, family) by the class of the reference and where it comes from; None: not one of ours."""
    arguments, reference = meta["constructor"], str(meta["reference"])
    cls = str(arguments.get("cls", ""))
    if re.search(r"MLP|MoE|3D|Video|MaskedAutoencoder|ViTMAE", cls + reference):
        return None
    if "Swin" in cls:
        family = "swinv2" if re.search(r"swin_?(transformer_?)?v2", cls, re.IGNORECASE) else "swin"
    elif re.search(r"VisionTransformer|ViT", cls):
        family = "vit"
    else:
        return None
    sources = (("transformers", "hf5"), ("timm", "timm"), ("torchvision", "torchvision"))
    layout = next((layout for start, layout in sources if re.match(start, reference)), "official")
    if re.search(r"SimMIM|ForMasked", cls):
        kind = "masked"
    elif "pretrain_img_size" in arguments or "Backbone" in cls:
        kind = "backbone"
    else:
        kind = "encoder" if re.match(r"(Swin|Swinv2|ViT)Model", cls) else "classifier"
    return kind, layout, family
