"""Whole pretraining steps of every objective beside what transformers has for it: samples a second.

A step masks and packs the samples, runs forward and backward and updates the weights with AdamW, on either side.
Images are noise of 192 or 224 px; texts are the language reference of Python, molecules the NCI ones of RDKit, both
with the settings of their default runs. The published side gets padded batches with the same tokens hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.compare import Make, Sides
from benchmarks.contenders import on
from benchmarks.timm_import import Unavailable

Loss = Callable[[int], Tensor]
STEP = "training step"


@dataclass(frozen=True)
class Scale:
    """Samples of a step and blocks of the models; width of text models."""

    images: int
    texts: int
    graphs: int
    blocks: int
    width: int
    device: str = "cpu"


FULL, QUICK = Scale(4, 32, 64, 4, 256), Scale(2, 16, 16, 1, 128)


@dataclass
class Signal:
    """Ours: a model with its objective, and the corrupted samples of every step."""

    model: Any
    samples: Callable[[int], list[dict[str, Any]]]
    collate: Callable[[list[dict[str, Any]]], Any]
    device: str = "cpu"

    def loss(self, step: int) -> Tensor:
        batch = self.collate(self.samples(step))
        keys = self.model.batch_keys()
        output = self.model(**on(self.device, {key: batch[key] for key in keys if key in batch}))
        loss: Tensor = output.loss_sum / output.num_targets
        return loss


def training(model: nn.Module, loss: Loss, device: str = "cpu") -> Callable[[], float]:
    """A function that takes one training step."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    after, number = getattr(model, "after_update", None), 0

    def step() -> float:
        nonlocal number
        number += 1
        value = loss(number)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if after is not None:
            after()
        return value.item()

    return step


# -- images


def _images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def image_signal(name: str, config: Any, images: Tensor, **options: Any) -> Signal:
    """An objective on noise."""
    from unitrans.domains import get_domain
    from unitrans.objectives import MaskedSignalModel, get_objective

    objective, domain = get_objective(name)(config, **options), get_domain("vision")
    torch.manual_seed(0)
    model = MaskedSignalModel.create(config, objective)

    def samples(step: int) -> list[dict[str, Any]]:
        return [
            objective.corrupt({"id": str(i), "image": image}, np.random.default_rng((step, i)))
            for i, image in enumerate(images)
        ]

    return Signal(model, samples, lambda found: domain.collate(found, config))


def _ours(make: Callable[[], Signal], device: str) -> Callable[[], object]:
    signal = make()
    signal.device = device
    return training(signal.model, signal.loss, device)


def mim(scale: Scale, visible: bool) -> Sides:
    """SimMIM with a Swin-T; the peer computes all tokens."""
    import transformers

    from unitrans.models import SwinConfig

    sizes = {"embed_dim": 96, "depths": (min(2, scale.blocks),) * 4, "num_heads": (3, 6, 12, 24)}
    sizes |= {"image_size": 192, "patch_size": 4, "window_size": 6, "drop_path_rate": 0.0}
    images, options = _images(scale.images, 192), {"mask_ratio": 0.6, "mask_patch_size": 32}

    def ours(tokens: str) -> Signal:
        return image_signal("mim", SwinConfig(**sizes), images, **options, encoder_tokens=tokens)

    def theirs() -> Callable[[], object]:
        from unitrans.objectives.mim import unit_mask

        config = transformers.SwinConfig(**sizes, encoder_stride=32, num_channels=3)
        model = transformers.SwinForMaskedImageModeling(config)

        def loss(step: int) -> Tensor:
            masks = [
                unit_mask((48, 48), 8, 0.6, np.random.default_rng((step, i))) for i in range(len(images))
            ]
            hidden = torch.from_numpy(np.stack(masks)).flatten(1)
            value: Tensor = model(*on(scale.device, (images, hidden))).loss
            return value

        return training(model, loss, scale.device)

    peers: dict[str, tuple[str, Make]] = {"transformers": ("model", theirs)}
    if visible:
        peers["unitrans all tokens"] = ("model", lambda: _ours(lambda: ours("all"), scale.device))
    mine = partial(_ours, partial(ours, "visible" if visible else "all"), scale.device)
    shape = f"Swin-T, {sizes['depths'][0]} blocks a stage, 192 px, batch {scale.images}"
    return Sides(shape, {"model": mine}, peers, scale.images, "images")


def _vit(scale: Scale, **fields: Any) -> Any:
    from unitrans.models import VitConfig

    return VitConfig(embed_dim=384, depth=scale.blocks, num_heads=6, **fields)


def _vit_shape(scale: Scale) -> str:
    return f"ViT-S/16, {scale.blocks} blocks, 224 px, batch {scale.images}"


_VIT = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_DROP = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def mae(scale: Scale) -> Sides:
    """MAE: the encoder sees a quarter of the patches on both sides."""
    import transformers

    images = _images(scale.images, 224)
    decoder = {"decoder_depth": min(2, scale.blocks), "decoder_embed_dim": 192, "decoder_num_heads": 6}

    def ours() -> Signal:
        config = _vit(scale, fixed_positions=True, init="mae")
        return image_signal("mae", config, images, mask_ratio=0.75, **decoder)

    def theirs() -> Callable[[], object]:
        config = transformers.ViTMAEConfig(
            **_VIT, num_hidden_layers=scale.blocks, mask_ratio=0.75, decoder_hidden_size=192,
            decoder_num_hidden_layers=decoder["decoder_depth"], decoder_num_attention_heads=6,
            decoder_intermediate_size=768,
        )  # fmt: skip
        model = transformers.ViTMAEForPreTraining(config)
        pictures = on(scale.device, images)
        return training(model, lambda step: model(pictures).loss, scale.device)

    peers: dict[str, tuple[str, Make]] = {"transformers": ("model", theirs)}
    return Sides(
        _vit_shape(scale), {"model": partial(_ours, ours, scale.device)}, peers, scale.images, "images"
    )


def _random_tokens(patches: Tensor, grids: Sequence[Any]) -> Tensor:
    return (patches[:, 0].abs() * 1e4).long() % 8192


def beit(scale: Scale) -> Sides:
    """BEiT with 8,192 tokens that cost nothing to make."""
    import transformers

    from unitrans.objectives import register_tokenizer

    register_tokenizer("benchmark", _random_tokens)
    images = _images(scale.images, 224)
    layers = {"key_bias": False, "ape": False, "relative_position": "per_layer", "layer_scale": 0.1}

    def ours() -> Signal:
        config = _vit(scale, **layers, init="beit")
        return image_signal("beit", config, images, tokenizer="benchmark", vocab_size=8192, mask_ratio=0.4)

    def theirs() -> Callable[[], object]:
        from unitrans.objectives.beit import block_mask

        config = transformers.BeitConfig(
            **_VIT, **_DROP, num_hidden_layers=scale.blocks, vocab_size=8192, drop_path_rate=0.0,
            use_mask_token=True, use_relative_position_bias=True, use_absolute_position_embeddings=False,
        )  # fmt: skip
        model = transformers.BeitForMaskedImageModeling(config)

        def loss(step: int) -> Tensor:
            masks = [
                block_mask((14, 14), 78, 16, np.random.default_rng((step, i))) for i in range(len(images))
            ]
            hidden = torch.from_numpy(np.stack(masks)).flatten(1)
            labels = torch.arange(int(hidden.sum())) % 8192
            value: Tensor = model(*on(scale.device, (images, hidden, labels))).loss
            return value

        return training(model, loss, scale.device)

    peers: dict[str, tuple[str, Make]] = {"transformers": ("model", theirs)}
    return Sides(
        _vit_shape(scale), {"model": partial(_ours, ours, scale.device)}, peers, scale.images, "images"
    )


def _none(reason: str) -> Callable[[], object]:
    raise Unavailable(reason)


def data2vec(scale: Scale) -> Sides:
    """data2vec on images; the student's step and the teacher's features and update."""
    images = _images(scale.images, 224)

    def ours() -> Signal:
        return image_signal("data2vec", _vit(scale), images, mask_ratio=0.6, top_k=scale.blocks)

    reason = "transformers has Data2Vec's encoders, but neither its teacher nor its loss"
    peers: dict[str, tuple[str, Make]] = {"transformers": ("model", partial(_none, reason))}
    return Sides(
        _vit_shape(scale), {"model": partial(_ours, ours, scale.device)}, peers, scale.images, "images"
    )


# -- texts, graphs, all together: the embedded data


def session_signal(domain: str, objective: str, batch: int, settings: Sequence[str]) -> Signal:
    """An objective of the default configuration on the embedded data."""
    from unitrans.training.config import resolve
    from unitrans.training.data import Collate
    from unitrans.training.session import open_new_session

    session = open_new_session(resolve(domain=domain, objective=objective, settings=list(settings)))
    data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
    order = np.random.default_rng(0).permutation(len(data))

    def samples(step: int) -> list[dict[str, Any]]:
        at = [int(order[(step * batch + i) % len(order)]) for i in range(batch)]
        return [data[step, index] for index in at]  # type: ignore[misc]

    return Signal(session.model, samples, collate)


def text(scale: Scale, objective: str) -> Sides:
    """mlm with BERT or clm with GPT-2, vocabulary of 2,000, against transformers on padded batches."""
    import transformers

    from benchmarks.text import IGNORED, padded

    name = "bert" if objective == "mlm" else "gpt2"
    settings = ["data.path=pydoc", f"model.name={name}", f"model.embed_dim={scale.width}"]
    settings += [f"model.depth={scale.blocks}", f"model.num_heads={scale.width // 32}"]
    if objective == "clm":
        settings += ["data.document=blank_line", "data.vocab_size=2000", "model.max_position_embeddings=128"]
        settings += ["model.drop_rate=0.0", "model.attn_drop_rate=0.0", "data.max_length=128"]
    make = partial(session_signal, "text", objective, scale.texts, settings)

    def theirs() -> Callable[[], object]:
        source = make()
        config = source.model.encoder.config
        heads, shared = scale.width // 32, {"vocab_size": config.vocab_size}
        if objective == "mlm":
            model: Any = transformers.BertForMaskedLM(
                transformers.BertConfig(
                    **shared, **_DROP, hidden_size=scale.width, num_hidden_layers=scale.blocks,
                    num_attention_heads=heads, intermediate_size=4 * scale.width, max_position_embeddings=128,
                )
            )  # fmt: skip
        else:
            model = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    **shared, n_embd=scale.width, n_layer=scale.blocks, n_head=heads, n_positions=128,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
                )
            )  # fmt: skip

        def loss(step: int) -> Tensor:
            found = source.samples(step)
            ids = [torch.as_tensor(np.asarray(s["input_ids"])).long() for s in found]
            labels = ids
            if objective == "mlm":
                labels = [torch.as_tensor(np.asarray(s["labels"])).long() for s in found]
            batch = padded(list(zip(ids, labels, strict=True)))
            real = torch.arange(batch["input_ids"].shape[1]) < torch.tensor([len(x) for x in ids])[:, None]
            batch["attention_mask"] = real.long()
            batch["labels"] = torch.where(real, batch["labels"], IGNORED)
            value: Tensor = model(**on(scale.device, batch)).loss
            return value

        return training(model, loss, scale.device)

    peers: dict[str, tuple[str, Make]] = {"transformers padded": ("model", theirs)}
    title = "BERT" if objective == "mlm" else "GPT-2"
    shape = f"{title}, width {scale.width}, {scale.blocks} blocks, batch {scale.texts}"
    return Sides(shape, {"model": partial(_ours, make, scale.device)}, peers, scale.texts, "texts")


class _PaddedNodes(nn.Module):
    """The published padded formula with a classifier of every feature of a node on it."""

    def __init__(self, config: Any, categories: Sequence[int]) -> None:
        super().__init__()
        from benchmarks.graph_padded import PaddedGraphormer

        self.body, self.categories = PaddedGraphormer(config), list(categories)
        self.head = nn.Linear(config.embed_dim, sum(categories))

    def forward(self, batch: dict[str, Tensor], at: Tensor, labels: Tensor) -> Tensor:
        scores = self.head(self.body.rows(batch)[:, 1:][at]).split(self.categories, 1)
        losses = [F.cross_entropy(s, labels[:, i]) for i, s in enumerate(scores)]
        return torch.stack(losses).sum()


def mgm(scale: Scale) -> Sides:
    """Hidden atoms with Graphormer slim; the published formula gets its padded batches ready made."""
    from unitrans.objectives.mgm import ATOMS

    settings = ["data.path=nci", f"model.depth={3 * scale.blocks}", "objective.mask_edges=none"]
    make = partial(session_signal, "graph", "mgm", scale.graphs, settings)

    def theirs() -> Callable[[], object]:
        from benchmarks.graph_padded import collate, preprocess

        source = make()
        model = _PaddedNodes(source.model.encoder.config, ATOMS)
        found = source.samples(0)
        keys = ("edge_index", "edge_attr", "nodes")
        items = [preprocess(hops=5, **{k: np.asarray(s[k]).clip(0) for k in keys}) for s in found]
        batch = collate(items)
        at = torch.zeros(batch["x"].shape[:2], dtype=torch.bool)
        for row, sample in enumerate(found):
            at[row, : len(sample["mask"])] = torch.from_numpy(np.asarray(sample["mask"]))
        hidden = [np.asarray(s["node_labels"])[np.asarray(s["mask"])] for s in found]
        labels = torch.from_numpy(np.concatenate(hidden)).long()
        batch, at, labels = on(scale.device, (batch, at, labels))
        return training(model, lambda step: model(batch, at, labels), scale.device)

    peers: dict[str, tuple[str, Make]] = {"padded formula": ("model", theirs)}
    shape = f"Graphormer, width 80, {3 * scale.blocks} blocks, batch {scale.graphs}"
    return Sides(shape, {"model": partial(_ours, make, scale.device)}, peers, scale.graphs, "molecules")


def msm(scale: Scale) -> Sides:
    """Images, texts and molecules in one batch through one trunk."""
    batch = 2 * scale.texts
    make = partial(session_signal, "vision,text,graph", "msm", batch, [])
    reason = "no published code that we know of trains images, texts and graphs in one batch"
    peers: dict[str, tuple[str, Make]] = {"none": ("model", partial(_none, reason))}
    return Sides(
        f"joint trunk, width 64, 4 blocks, batch {batch}",
        {"model": partial(_ours, make, scale.device)},
        peers,
        batch,
        "samples",
    )


#: Name of the case -> its sides at a scale.
OBJECTIVES: dict[str, Callable[[Scale], Sides]] = {
    "mim, all tokens": partial(mim, visible=False),
    "mim, visible tokens": partial(mim, visible=True),
    "mae": mae,
    "beit": beit,
    "data2vec": data2vec,
    "mlm": partial(text, objective="mlm"),
    "clm": partial(text, objective="clm"),
    "mgm": mgm,
    "msm": msm,
}
