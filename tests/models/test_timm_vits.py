"""ViTs of timm with other tokens, norms and heads against the formulas of their papers, on timm's names."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unitrans
from unitrans.models import VitConfig, VitForImageClassification
from unitrans.models.convert import config_from, export_weights
from unitrans.models.recognise import configured, recognise

DIM, HEADS, PATCH, SIDE, CLASSES = 16, 2, 4, 5, 3
QUICK = "quick_gelu"


def weights_of(
    *, cls: int = 1, dist: int = 0, registers: int = 0, own_place: bool = True, scale: bool = False,
    clip: bool = False, siglip: bool = False, classes: int = CLASSES,
) -> dict[str, Tensor]:  # fmt: skip
    """A state dict of one block as timm's VisionTransformer and VisionTransformerDistilled have it."""
    front = cls + dist + registers
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, SIDE**2 + front * own_place, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
    }
    shapes |= {} if clip else {"patch_embed.proj.bias": (DIM,)}
    for name, count in (("cls_token", cls), ("dist_token", dist), ("reg_token", registers)):
        shapes |= {name: (1, count, DIM)} if count else {}
    layers = {"blocks.0.attn.qkv": 3, "blocks.0.attn.proj": 1, "blocks.0.mlp.fc1": 4}
    linear = {name: (DIM * times, DIM) for name, times in layers.items()}
    linear |= {"blocks.0.mlp.fc2": (DIM, 4 * DIM), "head": (classes, DIM)}
    linear |= {"head_dist": (classes, DIM)} if dist else {}
    norms = ["blocks.0.norm1", "blocks.0.norm2", "norm", *(["norm_pre"] if clip else [])]
    if siglip:
        shapes["attn_pool.latent"] = (1, 1, DIM)
        linear |= {"attn_pool.q": (DIM, DIM), "attn_pool.kv": (2 * DIM, DIM), "attn_pool.proj": (DIM, DIM)}
        linear |= {"attn_pool.mlp.fc1": (4 * DIM, DIM), "attn_pool.mlp.fc2": (DIM, 4 * DIM)}
        norms.append("attn_pool.norm")
    for name, shape in linear.items():
        shapes |= {name + ".weight": shape, name + ".bias": shape[:1]}
    for name in norms:
        shapes |= {name + ".weight": (DIM,), name + ".bias": (DIM,)}
    if scale:
        shapes |= {"blocks.0.ls1.gamma": (DIM,), "blocks.0.ls2.gamma": (DIM,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def published(w: dict[str, Tensor], images: Tensor, activation: str = "gelu") -> Tensor:
    """Logits by the papers' formulas: dense attention over rows [B, S, C]."""
    act = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        QUICK: lambda x: x / (1 + (-1.702 * x).exp()),
    }[activation]
    eps = 1e-5 if "norm_pre.weight" in w else 1e-6

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), w[name + ".weight"], w[name + ".bias"], eps)

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(name + ".fc2", act(linear(name + ".fc1", x)))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(DIM // HEADS)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    x = F.conv2d(images, w["patch_embed.proj.weight"], w.get("patch_embed.proj.bias"), PATCH).flatten(2).mT
    front = [w[name].expand(len(x), -1, -1) for name in ("cls_token", "dist_token", "reg_token") if name in w]
    if w["pos_embed"].shape[1] == x.shape[1]:
        x = torch.cat([*front, x + w["pos_embed"]], 1)
    else:
        x = torch.cat([*front, x], 1) + w["pos_embed"]
    x = norm("norm_pre", x) if "norm_pre.weight" in w else x
    gammas = [w.get(f"blocks.0.ls{branch}.gamma", torch.ones(())) for branch in (1, 2)]
    qkv = linear("blocks.0.attn.qkv", norm("blocks.0.norm1", x)).chunk(3, -1)
    x = x + gammas[0] * linear("blocks.0.attn.proj", attend(*qkv))
    x = norm("norm", x + gammas[1] * mlp("blocks.0.mlp", norm("blocks.0.norm2", x)))
    if "dist_token" in w:
        return (linear("head", x[:, 0]) + linear("head_dist", x[:, 1])) / 2
    if "attn_pool.latent" in w:
        query = linear("attn_pool.q", w["attn_pool.latent"].expand(len(x), -1, -1))
        out = linear("attn_pool.proj", attend(query, *linear("attn_pool.kv", x).chunk(2, -1)))
        return linear("head", (out + mlp("attn_pool.mlp", norm("attn_pool.norm", out)))[:, 0])
    return linear("head", x[:, 0] if "cls_token" in w else x.mean(1))


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # kind -> its parts, what weights do not tell
    "DeiT": ({}, {}),
    "DeiT, distilled": ({"dist": 1}, {}),
    "DeiT-3": ({"own_place": False, "scale": True}, {}),
    "DINOv2": ({"scale": True}, {}),
    "DINOv2 with registers": ({"registers": 4, "own_place": False, "scale": True}, {}),
    "CLIP": ({"clip": True}, {"activation": "gelu"}),
    "CLIP by OpenAI": ({"clip": True}, {"activation": QUICK}),
    "SigLIP": ({"cls": 0, "siglip": True}, {"activation": "gelu"}),
    "SigLIP 2": ({"cls": 0, "siglip": True}, {"activation": "gelu_tanh"}),
    "SigLIP, mean": ({"cls": 0}, {"activation": "gelu"}),
}
IMAGES = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_names_are_timms(kind: str) -> None:
    """And what cannot be told is asked for; weights go back under the same names."""
    parts, told = KINDS[kind]
    weights = weights_of(**parts)
    model = unitrans.load(weights, num_heads=HEADS, **told)
    with torch.no_grad():
        got, want = model(IMAGES).logits, published(weights, IMAGES, **told)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    back = export_weights(model, "timm")
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in back)
    for name in told:
        with pytest.raises(ValueError, match=f"do not tell num_heads and {name}: give num_heads=.*{name}="):
            unitrans.load(weights)


@pytest.mark.parametrize("kind", ["DeiT, distilled", "DINOv2 with registers", "SigLIP"])
def test_other_sizes_batches_and_classes(kind: str) -> None:
    """Positions of patches are resized and those of tokens in front kept; an image alone is as in company."""
    parts, told = KINDS[kind]
    weights = weights_of(**parts)
    model = unitrans.load(weights, num_heads=HEADS, **told)
    wide = torch.randn(2, 3, 28, 36, generator=torch.Generator().manual_seed(2))
    larger = unitrans.load(weights, num_heads=HEADS, image_size=[28, 36], num_classes=7, **told)
    with torch.no_grad():
        rows = larger.vit(wide).pooler_output
        torch.testing.assert_close(model.vit(wide).pooler_output, rows)
        torch.testing.assert_close(torch.cat([larger.vit(image[None]).pooler_output for image in wide]), rows)
    assert larger(wide).logits.shape == (2, 7)
    assert [tuple(m.shape) for m in model.forward_features(wide)] == [(2, DIM, 7, 9)]
    larger(wide, labels=torch.tensor([0, 6])).loss.backward()
    unused = {n for n, p in larger.named_parameters() if p.grad is None}
    assert not unused


def test_arguments_of_timm() -> None:
    config = config_from("timm", {"depth": 1, "reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5})
    assert (config.register_tokens, config.prefix_positions, config.num_prefix) == (4, False, 5)
    config = config_from("timm", {"depth": 1, "pre_norm": True, "act_layer": QUICK})
    assert (config.pre_norm, config.patch_bias, config.activation) == (True, False, QUICK)
    config = config_from("timm", {"depth": 1, "class_token": False, "global_pool": "map"})
    assert (config.pooling, config.cls_token) == ("attention", False)
    with pytest.raises(ValueError, match="act_layer: expected one of 'gelu'"):
        config_from("timm", {"depth": 1, "act_layer": "silu"})


def test_published_names_tell_the_rest() -> None:
    with torch.device("meta"):
        clip = export_weights(unitrans.create("vit_base_patch32_clip_quickgelu_224"), "timm")
    config, _ = configured(recognise(clip), {}, "vit_base_patch32_clip_quickgelu_224.openai.safetensors")
    assert (config.activation, config.num_heads, config.layer_norm_eps) == (QUICK, 12, 1e-5)


def test_what_our_vit_does_not_have() -> None:
    weights = weights_of()
    weights["blocks.0.mlp.fc2.weight"] = torch.zeros(DIM, 2 * DIM)
    with pytest.raises(ValueError, match=r"MLPs with a gate \(SwiGLU"):
        unitrans.load(weights, num_heads=HEADS)
    with pytest.raises(ValueError, match="distillation_token: expected a cls_token"):
        VitConfig(cls_token=False, pooling="mean", distillation_token=True)
    with pytest.raises(ValueError, match="at most a class token"):
        VitForImageClassification(VitConfig(register_tokens=2, relative_position="shared"))
