"""One trunk for several domains: each has its own way in and out, the Blocks are shared and run once over all of them.

A batch is one packed stream: images, documents and graphs one after the other, each with its groups and bias planes.
A domain's part is its whole encoder without Blocks (`unitrans.models.blocks`), so weights come from models of one
domain and go back to them by renaming.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from unitrans.models.blocks import joined, through_blocks
from unitrans.models.images import EncoderOutput, KeepsFrozen, check_sizes
from unitrans.nn import Block

#: The models whose Blocks can be shared, by domain, in the order of the stream.
PARTS = {"vision": ("vit",), "text": ("bert", "gpt2"), "graph": ("graphormer",)}
#: Settings that every part has from the trunk, and those that no part may have otherwise.
TRUNK = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "layer_norm_eps"),
    *("drop_rate", "attn_drop_rate", "act_drop_rate"),
)
FIXED = {
    "norm": "pre",
    "activation": "gelu",
    "qkv_bias": True,
    "key_bias": True,
    "qk_scale": None,
    "layer_scale": None,
    "drop_path_rate": 0.0,
}


def domain_of(encoder: Mapping[str, Any]) -> str | None:
    """The domain whose part a stored encoder of this configuration can be; None where its blocks cannot be shared."""
    kind = str(encoder.get("model_type", "")).removeprefix("unitrans-")
    return next((domain for domain, kinds in PARTS.items() if kind in kinds), None)


def part_of(encoder: Mapping[str, Any], domain: str) -> dict[str, Any] | None:
    """The stored configuration of a domain's encoder: of a joint model that of its part, None where it has none; of
    another model itself."""
    if encoder.get("model_type") != JointConfig.model_type:
        return dict(encoder)
    part = encoder.get(domain)
    return None if part is None else dict(part)


class JointConfig(PreTrainedConfig):
    """Configuration of a trunk and of the parts of its domains.

    Attributes:
        embed_dim: channels.
        depth: blocks, pre-norm with the exact GELU.
        num_heads: heads of each block.
        mlp_ratio: hidden width of the MLPs over the channels.
        layer_norm_eps: of all LayerNorms.
        drop_rate, attn_drop_rate, act_drop_rate: dropout of projections and embedded rows, of attention weights, and
            behind the activation of the MLPs.
        initializer_range: deviation of the fresh weights of the blocks; the last layers of branches start smaller by
            the root of their number (GPT-2).
        vision, text, graph: configuration of the domain's part, or its settings as a dict with its model_type; what
            the trunk says need not be repeated. None: there is no such domain.
    """

    model_type = "unitrans-joint"

    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_drop_rate: float = 0.0
    initializer_range: float = 0.02
    vision: Any = None
    text: Any = None
    graph: Any = None

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        check_sizes(self, "embed_dim", "depth", "num_heads", "mlp_ratio", "initializer_range")
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                setattr(self, name, self._part(name, part))
        if not self.parts:
            raise ValueError(f"model: expected at least one of {', '.join(PARTS)}, got none")

    @property
    def parts(self) -> dict[str, Any]:
        """The configurations of the domains there are, in the order of the stream."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def _part(self, name: str, part: Any) -> PreTrainedConfig:
        """The configuration of a part. ValueError for one that the trunk does not fit."""
        given = dict(part.to_dict() if isinstance(part, PreTrainedConfig) else part)
        kind = str(given.pop("model_type", "")).removeprefix("unitrans-")
        if kind not in PARTS[name]:
            raise ValueError(
                f"model.{name}.name: expected {' or '.join(PARTS[name])}, whose blocks can be shared, got {kind!r}"
            )
        model_type = f"unitrans-{kind}"
        known = AutoConfig.for_model(model_type).to_dict()
        needed = FIXED | {key: getattr(self, key) for key in TRUNK}
        needed = {key: value for key, value in needed.items() if key in known}
        for key, value in needed.items():
            if key in given and given[key] != value:
                raise ValueError(
                    f"model.{name}.{key}: the blocks of a joint model are shared, expected {value}, got {given[key]}; "
                    "leave it out"
                )
        config = (
            part if isinstance(part, PreTrainedConfig) else AutoConfig.for_model(model_type, **needed | given)
        )
        if getattr(config, "relative_position", "none") == "per_layer":
            raise ValueError(
                f"model.{name}.relative_position: the blocks of a joint model are shared, expected none or shared, got "
                "per_layer"
            )
        return config

    @property
    def num_features(self) -> int:
        """Channels of the last rows."""
        return self.embed_dim


class JointModel(KeepsFrozen):
    """Parts of several domains around one list of Blocks.

    Example:
        >>> config = JointConfig(vision={"model_type": "unitrans-vit"}, text={"model_type": "unitrans-bert"})
        >>> model = JointModel(config)
        >>> plans = config.text.plans([3])
        >>> model(text={"input_ids": torch.tensor([5, 6, 7]), "plans": plans})["text"].pooler_output.shape
        torch.Size([1, 384])
    """

    config: JointConfig
    config_class = JointConfig
    base_model_prefix = "encoder"
    main_input_name = "text"

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config)
        self.parts: Any = nn.ModuleDict()
        for name, part in config.parts.items():
            encoder = AutoModel.from_config(part)
            encoder.blocks = nn.ModuleList()  # those of the trunk take their place
            self.parts[name] = encoder
        self.input_names = tuple(self.parts)
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                act_drop=config.act_drop_rate,
                eps=config.layer_norm_eps,
            )
            for _ in range(config.depth)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draws the blocks; parts draw their own weights."""
        if not isinstance(module, Block):
            return
        std = self.config.initializer_range
        last = std / (2 * self.config.depth) ** 0.5
        for layer in (module.attn.qkv, module.mlp.fc1, module.attn.proj, module.mlp.fc2):
            ends_branch = layer in (module.attn.proj, module.mlp.fc2)
            nn.init.normal_(layer.weight, std=last if ends_branch else std)
            nn.init.zeros_(layer.bias)
        module.norm1.reset_parameters()
        module.norm2.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are never decayed: those of the parts."""
        return {f"parts.{name}.{key}" for name, part in self.parts.items() for key in part.no_weight_decay()}

    def no_weight_decay_keywords(self) -> tuple[str, ...]:
        """Parts of parameter names that are not decayed, beside biases and norms."""
        return tuple({word for part in self.parts.values() for word in part.no_weight_decay_keywords()})

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart."""
        return len(self.blocks) + 2

    def layer_id(self, name: str) -> int:
        """The layer of a parameter: 0 on the way in, block i is i + 1, the last on the way out."""
        kind, place, rest = name.split(".", 2)
        if kind == "blocks":
            return int(place) + 1
        return 0 if self.parts[place].layer_id(rest) == 0 else self.num_layers - 1

    def encode(self, entered: Mapping[str, tuple[Tensor, Any]]) -> dict[str, Tensor]:
        """Embedded rows through all blocks together.

        Args:
            entered: of every domain in the batch its embedded rows [T, C] and its plans, as its own encoder takes them
                in `encode`.

        Returns:
            Last rows of every domain, behind its norm of rows; special tokens are there.
        """
        return {name: self.parts[name].leave(rows) for name, rows in self.encode_blocks(entered)[-1].items()}

    def encode_blocks(self, entered: Mapping[str, tuple[Tensor, Any]]) -> list[dict[str, Tensor]]:
        """As `encode`: the rows of every domain behind every block."""
        names = [name for name in self.parts if name in entered]
        streams = [self.parts[name].enter(*entered[name]) for name in names]
        lengths = [stream.x.shape[0] for stream in streams]
        return [
            dict(zip(names, rows.split(lengths), strict=True))
            for rows in through_blocks(self.blocks, joined(streams))
        ]

    def forward(self, **inputs: Mapping[str, Any]) -> dict[str, EncoderOutput]:
        """What the encoder of every domain takes (`input_names`, plans among them) -> its output.

        Raises:
            ValueError: a domain that the model does not have, or none.
        """
        unknown = sorted(inputs.keys() - self.parts.keys())
        if unknown or not inputs:
            raise ValueError(
                f"inputs: expected some of {', '.join(self.parts)}, got {', '.join(unknown) or 'none'}"
            )
        entered = {
            name: (self.parts[name].embed_tokens(given, given["plans"], None, None), given["plans"])
            for name, given in inputs.items()
        }
        return {
            name: EncoderOutput(
                last_hidden_state=rows, pooler_output=self.parts[name].pool(rows, inputs[name]["plans"])
            )
            for name, rows in self.encode(entered).items()
        }
