"""One trunk for several domains: each has its own way in and out, the Blocks are shared and run once over all of them.

A batch is one packed stream: images, documents and graphs one after the other, each with its groups and bias planes.
A domain's part is its whole encoder without Blocks (`unitrans.models.blocks`), so weights come from models of one
domain and go back to them by renaming.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unitrans.models import registry
from unitrans.models._encoder import Model
from unitrans.models.blocks import joined, through_blocks
from unitrans.models.images import EncoderOutput
from unitrans.models.joint.config import JointConfig
from unitrans.nn import Block


class JointModel(Model):
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
            encoder = registry.make_encoder(part)
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
