"""Whole models, ours and published ones: who takes part, built at equal size and fed with the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from benchmarks.timm_import import import_timm

INFERENCE, TRAINING = "inference", "training step"
CEILING = "attention removed"
CLASSES = 1000
Call = Callable[[Any], Tensor]
#: A network and what is computed with it: the output for inference, the loss of a training step.
Contender = tuple[nn.Module, Call]


@dataclass(frozen=True)
class Size:
    """How much of a published model is built, and how many samples it gets.

    Attributes:
        blocks: of every stage of a hierarchy, or of the whole; None: as published.
        width: channels of text models; 768 as published.
    """

    batch: int
    blocks: int | None = None
    width: int = 768
    side: int | None = None

    def __str__(self) -> str:
        parts = [f"batch {self.batch}"]
        if self.blocks is not None:
            parts.append(f"{self.blocks} blocks" + (" a stage" if self.side else ""))
        return ", ".join(parts)


@dataclass(frozen=True)
class Model:
    """A published model: its name in reports, how it is built (name -> maker, by what is computed), its samples.

    Attributes:
        build: gives the makers. The first one is ours.
        compiled: the peers that are worth compiling where there is time for a few only.
        unit: what a sample is.
    """

    title: str
    build: Callable[[Size, torch.dtype, str, str], dict[str, Callable[[], Contender]]]
    compiled: tuple[str, ...]
    full: Size
    quick: Size
    unit: str = "images"


def on(device: str, values: Any) -> Any:
    """The same with all tensors on a device; plans are trees of tensors too."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)


def _images(size: Size, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size.batch, 3, side, side, generator=generator, dtype=torch.float32).to(dtype)
    return images, torch.randint(0, CLASSES, (size.batch,), generator=generator)


def _classifier(make: Callable[[], nn.Module], images: Tensor, labels: Tensor, what: str) -> Contender:
    def call(net: Any) -> Tensor:
        out = net(images)
        logits = out if isinstance(out, Tensor) else out.logits
        return logits if what == INFERENCE else F.cross_entropy(logits.float(), labels)

    return make().to(images.dtype), call


def _timm(name: str, fused: bool, **options: Any) -> nn.Module:
    import_timm("timm.layers.config").set_fused_attn(fused, experimental=fused)
    model: nn.Module = import_timm("timm").create_model(
        name, pretrained=False, num_classes=CLASSES, drop_path_rate=0.0, **options
    )
    return model


def swin(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """Swin-T 224."""
    import transformers

    from unitrans import models

    depths = (2, 2, 6, 2) if size.blocks is None else (size.blocks,) * 4

    def theirs(attention: str) -> nn.Module:
        config = transformers.SwinConfig(
            num_labels=CLASSES, drop_path_rate=0.0, depths=list(depths), attn_implementation=attention
        )
        return transformers.SwinForImageClassification(config)

    def ours() -> nn.Module:
        return models.SwinForImageClassification(models.SwinConfig(num_labels=CLASSES, depths=depths))

    name = "swin_tiny_patch4_window7_224"
    makers: dict[str, Callable[[], nn.Module]] = {
        "unitrans": ours,
        CEILING: ours,
        "timm off": lambda: _timm(name, False, depths=depths),
        "timm fused": lambda: _timm(name, True, depths=depths),
        "transformers sdpa": lambda: theirs("sdpa"),
        "transformers eager": lambda: theirs("eager"),
    }
    images, labels = _images(size, 224, dtype)
    return {k: partial(_classifier, make, *on(device, (images, labels)), what) for k, make in makers.items()}


def swinv2(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """SwinV2-T 256; timm has no fused path for it."""
    import transformers

    from unitrans import models

    depths = (2, 2, 6, 2) if size.blocks is None else (size.blocks,) * 4

    def ours() -> nn.Module:
        return models.Swinv2ForImageClassification(models.Swinv2Config(num_labels=CLASSES, depths=depths))

    def theirs() -> nn.Module:
        config = transformers.Swinv2Config(
            num_labels=CLASSES, drop_path_rate=0.0, image_size=256, window_size=8, depths=list(depths)
        )
        return transformers.Swinv2ForImageClassification(config)

    makers: dict[str, Callable[[], nn.Module]] = {
        "unitrans": ours,
        CEILING: ours,
        "timm off": lambda: _timm("swinv2_tiny_window8_256", False, depths=depths),
        "transformers eager": theirs,
    }
    images, labels = _images(size, 256, dtype)
    return {k: partial(_classifier, make, *on(device, (images, labels)), what) for k, make in makers.items()}


def vit(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """ViT-S/16 224."""
    import transformers

    from unitrans import models

    depth = 12 if size.blocks is None else size.blocks

    def ours() -> nn.Module:
        config = models.VitConfig(embed_dim=384, depth=depth, num_heads=6, num_labels=CLASSES)
        return models.VitForImageClassification(config)

    def theirs(attention: str) -> nn.Module:
        config = transformers.ViTConfig(
            hidden_size=384, num_hidden_layers=depth, num_attention_heads=6, intermediate_size=1536,
            num_labels=CLASSES, attn_implementation=attention,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config)

    makers: dict[str, Callable[[], nn.Module]] = {
        "unitrans": ours,
        CEILING: ours,
        "timm off": lambda: _timm("vit_small_patch16_224", False, depth=depth),
        "timm fused": lambda: _timm("vit_small_patch16_224", True, depth=depth),
        "transformers sdpa": lambda: theirs("sdpa"),
        "transformers eager": lambda: theirs("eager"),
    }
    images, labels = _images(size, 224, dtype)
    return {k: partial(_classifier, make, *on(device, (images, labels)), what) for k, make in makers.items()}


def _texts(size: Size, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    from benchmarks.text import lengths_of, texts_of

    return texts_of(0, lengths_of(0, size.batch), vocab_size)


def bert(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """BERT-base: last rows for inference, masked language modelling as a step. Ours packed, theirs padded."""
    import transformers

    from benchmarks.text import padded
    from unitrans import models

    depth, heads = 12 if size.blocks is None else size.blocks, size.width // 64
    config = models.BertConfig(
        embed_dim=size.width, depth=depth, num_heads=heads, drop_rate=0.0, attn_drop_rate=0.0
    )
    texts = _texts(size, config.vocab_size)
    batch = padded(texts)
    kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ids, labels = (torch.cat(column) for column in zip(*texts, strict=True))
    plans = config.plans([len(x) for x, _ in texts])
    batch, kept, ids, labels, plans = on(device, (batch, kept, ids, labels, plans))

    def ours() -> Contender:
        if what == INFERENCE:
            return models.BertModel(config).to(dtype), lambda net: net(ids, plans=plans).last_hidden_state
        return models.BertForMaskedLM(config).to(dtype), lambda net: net(ids, labels=labels, plans=plans).loss

    def theirs() -> Contender:
        settings = transformers.BertConfig(
            hidden_size=size.width, num_hidden_layers=depth, num_attention_heads=heads,
            intermediate_size=4 * size.width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )  # fmt: skip
        if what == INFERENCE:
            net = transformers.BertModel(settings, add_pooling_layer=False)
            return net.to(dtype), lambda net: net(**kept).last_hidden_state
        return transformers.BertForMaskedLM(settings).to(dtype), lambda net: net(**batch).loss

    return {
        "unitrans": ours,
        CEILING: ours,
        "transformers sdpa": theirs,
    }


def gpt2(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """GPT-2: last rows for inference, the next token as a step. Ours packed, theirs padded."""
    import transformers

    from benchmarks.text import IGNORED, padded
    from unitrans import models

    depth, heads = 12 if size.blocks is None else size.blocks, size.width // 64
    config = models.Gpt2Config(
        embed_dim=size.width, depth=depth, num_heads=heads, drop_rate=0.0, attn_drop_rate=0.0
    )
    texts = [(ids, ids) for ids, _ in _texts(size, 30000)]
    batch = padded(texts)
    batch["labels"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORED)
    kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ids = torch.cat([x for x, _ in texts])
    plans = config.plans([len(x) for x, _ in texts])
    batch, kept, ids, plans = on(device, (batch, kept, ids, plans))

    def ours() -> Contender:
        if what == INFERENCE:
            return models.Gpt2Model(config).to(dtype), lambda net: net(ids, plans=plans).last_hidden_state
        return models.Gpt2LMHeadModel(config).to(dtype), lambda net: net(ids, labels=ids, plans=plans).loss

    def theirs() -> Contender:
        settings = transformers.GPT2Config(
            n_embd=size.width, n_layer=depth, n_head=heads, n_positions=config.max_position_embeddings,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa",
        )  # fmt: skip
        if what == INFERENCE:
            return transformers.GPT2Model(settings).to(dtype), lambda net: net(**kept).last_hidden_state
        return transformers.GPT2LMHeadModel(settings).to(dtype), lambda net: net(**batch).loss

    return {
        "unitrans": ours,
        CEILING: ours,
        "transformers sdpa": theirs,
    }


def graphormer(size: Size, dtype: torch.dtype, what: str, device: str) -> dict[str, Callable[[], Contender]]:
    """Graphormer slim on graphs of the shape of ZINC's molecules; the other side is the published padded formula."""
    from benchmarks.graph import packed, zinc_like
    from benchmarks.graph_padded import PaddedGraphormer, collate, preprocess
    from unitrans.models import Graphormer, GraphormerConfig

    drop = {"attn_drop_rate": 0.0, "act_drop_rate": 0.0}
    depth = {} if size.blocks is None else {"depth": size.blocks}
    config = GraphormerConfig.named("slim", **drop, **depth)
    graphs = zinc_like(size.batch, 0, outlier=False)
    nodes, plans = packed(config, graphs)
    items: Sequence[dict[str, np.ndarray]] = [preprocess(hops=5, **graph) for graph in graphs]
    batch = collate(items)
    if dtype != torch.float32:
        batch["attn_bias"] = batch["attn_bias"].to(dtype)
    nodes, plans, batch = on(device, (nodes, plans, batch))

    def loss(output: Tensor) -> Tensor:
        return output if what == INFERENCE else output.float().abs().sum()

    def ours() -> Contender:
        return Graphormer(config).to(dtype), lambda net: loss(net(nodes, plans).logits)

    def theirs() -> Contender:
        return PaddedGraphormer(config).to(dtype), lambda net: loss(net(batch))

    return {"unitrans": ours, CEILING: ours, "padded formula": theirs}


MODELS = {
    "swin": Model("Swin-T 224", swin, ("timm fused",), Size(2, 2, side=224), Size(1, 1, side=224)),
    "swinv2": Model("SwinV2-T 256", swinv2, ("timm off",), Size(2, 2, side=256), Size(1, 1, side=256)),
    "vit": Model("ViT-S/16 224", vit, ("timm fused",), Size(4, 4), Size(2, 2)),
    "bert": Model("BERT-base", bert, ("transformers sdpa",), Size(4, 4), Size(4, 1, 256), "texts"),
    "gpt2": Model("GPT-2", gpt2, ("transformers sdpa",), Size(4, 4), Size(2, 1, 256), "texts"),
    "graphormer": Model(
        "Graphormer slim", graphormer, ("padded formula",), Size(64, 4), Size(32, 2), "molecules"
    ),
}
