"""What text encoders share: padded batches to the packed stream, embedding, Blocks, pooling."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from unitrans.models._encoder import Model
from unitrans.models.blocks import Stream, through_blocks
from unitrans.models.images import EncoderOutput, check_sizes, mean_per_sample
from unitrans.models.text_plans import TextPlans
from unitrans.nn import Activation, Block, TokenEmbed
from unitrans.nn.block import KeyValues

TextPooling = Literal["mean", "first", "last", "pooler"]
PositionInit = Literal["normal", "sinusoidal"]
TextNorm = Literal["post", "pre"]


class TextConfig(PreTrainedConfig):
    """What the configurations of text encoders share.

    Attributes:
        vocab_size: rows of the table of tokens; in a run that of the tokenizer.
        embed_dim: channels.
        depth: blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden width of the MLPs over the channels.
        max_position_embeddings: tokens of the longest document that can be fed.
        type_vocab_size: segments that token_type_ids tell apart; 0 is no such table.
        ape: learned absolute position embeddings; without them tokens are a bag, or, in a causal model, a sequence of
            growing bags.
        position_offset: the first token has this place in the table of positions, which is that much longer;
            pad_token_id + 1 in RoBERTa.
        activation: gelu (the exact one), gelu_tanh, quick_gelu or relu.
        drop_rate: dropout of the embedding and of the branches.
        attn_drop_rate: dropout of attention weights.
        pooling: one vector for a document: the mean of its rows, its first or last row, or pooler: a layer with
            tanh on the first (BERT).
        norm: where the LayerNorms of the blocks stand: post (BERT) or pre (GPT-2), which has a final norm.
        layer_norm_eps: of all LayerNorms.
        initializer_range: deviation of fresh weights; narrow models learn faster with more, about dim ** -0.5.
        position_init: fresh position embeddings: normal as the others, or sinusoidal (Vaswani et al. 2017, section
            3.5, of the same mean square), with which neighbours are found after few updates.
        pad_token_id: the token that padding consists of; it is not needed for packed input.
        mask_token_id: the token that stands for a hidden one; in a run that of the tokenizer.
    """

    causal: ClassVar[bool] = False

    vocab_size: int = 30522
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    ape: bool = True
    position_offset: int = 0
    activation: Activation = "gelu"
    drop_rate: float = 0.1
    attn_drop_rate: float = 0.1
    pooling: TextPooling = "mean"
    norm: TextNorm = "post"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    position_init: PositionInit = "normal"
    pad_token_id: int | None = 0
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        check_sizes(self, "vocab_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
        check_sizes(self, "max_position_embeddings", "initializer_range")
        for name in ("type_vocab_size", "position_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("drop_rate", "attn_drop_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(self, name)}")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of embed_dim {self.embed_dim}, got {self.num_heads}"
            )
        for name, kind in (
            ("activation", Activation),
            ("pooling", TextPooling),
            ("norm", TextNorm),
            ("position_init", PositionInit),
        ):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")

    @property
    def num_features(self) -> int:
        """Channels of the last rows."""
        return self.embed_dim

    def plans(self, lengths: Any) -> TextPlans:
        """The plans of a batch of documents, in the order of the stream.

        Args:
            lengths: integers [B], tokens of each document.

        Raises:
            ValueError: a document longer than max_position_embeddings.
        """
        longest = max((int(n) for n in lengths), default=0)
        if longest > self.max_position_embeddings:
            raise ValueError(
                f"input_ids: expected documents of at most max_position_embeddings = "
                f"{self.max_position_embeddings} tokens, got one of {longest}; cut it into chunks"
            )
        return TextPlans.from_lengths(lengths, causal=self.causal)


def check_published(config: TextConfig, published: TextNorm) -> None:
    """ValueError for a model without positions, or whose norms do not stand where the published one has them."""
    if not config.ape:
        raise ValueError(
            f"model.ape: transformers has no {config.model_type.removeprefix('unitrans-')} without absolute positions, "
            "so its weights have no names there; expected true"
        )
    if config.norm != published:
        raise ValueError(
            f"model.norm: transformers has no {config.model_type.removeprefix('unitrans-')} with norm={config.norm}, "
            f"so its weights have no names there; expected {published}"
        )


class PackedText(NamedTuple):
    """A batch as one stream. `places` int64 [T]: the place of every token in the padded batch, row-major."""

    input_ids: Tensor
    token_type_ids: Tensor | None
    plans: TextPlans
    places: Tensor


class TextEncoder(Model):
    """Base of the models that take packed tokens with plans, or a padded batch."""

    main_input_name = "input_ids"
    input_names: ClassVar[tuple[str, ...]] = ("input_ids", "plans", "token_type_ids")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = TokenEmbed(
            config.vocab_size,
            config.embed_dim,
            config.max_position_embeddings + config.position_offset if config.ape else 0,
            type_vocab_size=config.type_vocab_size,
            norm=config.norm == "post",
            eps=config.layer_norm_eps,
            drop=config.drop_rate,
        )
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                norm=config.norm,
                drop=config.drop_rate,
                act_drop=0.0,
                attn_drop=config.attn_drop_rate,
                eps=config.layer_norm_eps,
                activation=config.activation,
            )
            for _ in range(config.depth)
        )
        last = config.norm == "pre"
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps) if last else nn.Identity()
        pooled = config.pooling == "pooler"
        self.pooler = nn.Linear(config.embed_dim, config.embed_dim) if pooled else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal of initializer_range for matrices and tables; in pre-norm models the last layer of every branch
        is smaller by the root of the number of branches (Radford et al. 2019, section 2.3)."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, TokenEmbed) and module.position_embeddings is not None:
            if self.config.position_init != "sinusoidal":
                return
            table = module.position_embeddings.weight
            table.copy_(sinusoids(*table.shape) * (std * math.sqrt(2)))
        elif isinstance(module, Block) and module.norm == "pre":
            for layer in (module.attn.proj, module.mlp.fc2):
                nn.init.normal_(layer.weight, std=std / math.sqrt(2 * self.config.depth))

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        """Nothing beside biases and norms: tables of embeddings are decayed (as the Trainer of transformers does)."""
        return ()

    @staticmethod
    def no_weight_decay() -> set[str]:
        """No parameter by name, likewise."""
        return set()

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart."""
        return int(self.config.depth) + 2

    def layer_id(self, name: str) -> int:
        """The layer of a parameter: embeddings 0, block i is i + 1, the rest the last."""
        if name.startswith("embeddings."):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else self.num_layers - 1

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of tokens."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Another table of tokens."""
        assert isinstance(value, nn.Embedding)
        self.embeddings.word_embeddings = value

    def embed(
        self, input_ids: Tensor, plans: TextPlans, token_type_ids: Tensor | None = None, *, tied: bool = False
    ) -> Tensor:
        """Tokens int64 [T] and their segments int64 [T] -> rows [T, C].

        tied: the table of tokens is also what the loss decodes by; see `unitrans.nn.tokens.look_up`.
        """
        return self.embeddings(
            input_ids, plans.place + self.config.position_offset, token_type_ids, tied=tied
        )

    #: Hidden tokens are replaced by the mask token, not by a learned row of an objective.
    hides_by_vector = False

    def embed_tokens(
        self, inputs: Mapping[str, Any], plans: TextPlans, hidden: Tensor | None, mask_token: Tensor | None
    ) -> Tensor:
        """Embedded rows [T, C] of a batch, for `encode_blocks`.

        Args:
            inputs: input_ids int64 [T], token_type_ids int64 [T] where there are any.
            plans: of the batch.
            hidden: bool [T], tokens that are replaced by the mask token; None: none. mask_token is not needed.

        Raises:
            ValueError: something is hidden and the tokenizer has no mask token.
        """
        ids = inputs["input_ids"]
        if hidden is not None:
            if self.config.mask_token_id is None:
                raise ValueError(
                    "model.mask_token_id: hiding tokens needs the token that stands for a hidden one, got none"
                )
            ids = torch.where(hidden, self.config.mask_token_id, ids)
        return self.embed(ids, plans, inputs.get("token_type_ids"))

    def token_rows(self, x: Tensor, plans: TextPlans) -> Tensor:
        """Rows [T, C] -> those of the tokens that were given: all of them."""
        return x

    def encode(self, x: Tensor, plans: TextPlans) -> Tensor:
        """Embedded rows [T, C] through all blocks -> [T, C]."""
        return self.leave(self.encode_blocks(x, plans)[-1])

    def encode_blocks(
        self, x: Tensor, plans: TextPlans, past: Sequence[KeyValues] | None = None
    ) -> list[Tensor]:
        """Embedded rows [T, C] -> the rows [T, C] behind every block; past: of every block, see `Attention`."""
        return through_blocks(self.blocks, self.enter(x, plans), past)

    def enter(self, x: Tensor, plans: TextPlans) -> Stream:
        """Embedded rows [T, C] in front of the blocks."""
        return Stream(x, plans.groups)

    def leave(self, x: Tensor) -> Tensor:
        """Rows [T, C] behind the blocks -> rows [T, C] behind the final norm, which pre-norm models have."""
        return self.norm(x)

    def features(self, input_ids: Tensor, plans: TextPlans, token_type_ids: Tensor | None = None) -> Tensor:
        """Tokens int64 [T] of whole documents -> last rows [T, C], or those that the plans keep."""
        return self.encode(self.embed_kept(input_ids, plans, token_type_ids), plans)

    def embed_kept(
        self, input_ids: Tensor, plans: TextPlans, token_type_ids: Tensor | None = None, *, tied: bool = False
    ) -> Tensor:
        """As `embed`, of whole documents: rows of the tokens that the plans keep."""
        if plans.visible is not None:
            input_ids = input_ids[plans.visible.index]
            token_type_ids = None if token_type_ids is None else token_type_ids[plans.visible.index]
        return self.embed(input_ids, plans, token_type_ids, tied=tied)

    def pool(self, x: Tensor, plans: TextPlans) -> Tensor:
        """Rows [T, C] -> [B, C] by `config.pooling`."""
        if self.config.pooling == "mean":
            return mean_per_sample(x, plans.sample_index, plans.token_counts)
        at = plans.last_rows() if self.config.pooling == "last" else plans.first_rows()
        rows = x.index_select(0, at)
        return rows if self.pooler is None else torch.tanh(self.pooler(rows))

    def pack(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> PackedText:
        """A padded batch without its padding.

        Args:
            input_ids: int64 [B, S].
            attention_mask: int or bool [B, S], 0 = padding, at any place; None: there is none.
            token_type_ids: int64 [B, S].
            position_ids: int64 [B, S] or [1, S], the row of every token in the table of positions; None: as follows.

        A token keeps the place of its column, as in transformers; with position_offset, places count the tokens
        that are not pad_token_id (RoBERTa).
        """
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids: expected [B, S], got shape {tuple(input_ids.shape)}")
        if torch.compiler.is_exporting():
            raise ValueError(
                "input_ids: which rows a padded batch has depends on its values, so no exported program can pack it: "
                "export with packed tokens [T] and plans (unitrans export writes models of images)"
            )
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if real.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask: expected {list(input_ids.shape)} like input_ids, got {list(real.shape)}"
            )
        if not torch.compiler.is_compiling() and input_ids.numel() and input_ids.device.type == "cpu":
            self.check_ids(input_ids)
        real = real != 0
        index = real.flatten().nonzero().squeeze(1)
        plans = self.config.plans(real.sum(1))
        place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        if position_ids is not None:
            place = self.check_positions(position_ids, input_ids) - self.config.position_offset
        elif self.config.position_offset:
            counted = input_ids != self.config.pad_token_id
            place = torch.where(
                counted, counted.cumsum(1) - 1, self.config.pad_token_id - self.config.position_offset
            )
        plans = TextPlans(plans.groups, plans.sample_index, plans.token_counts, place.flatten()[index])
        types = None if token_type_ids is None else token_type_ids.flatten()[index]
        return PackedText(input_ids.flatten()[index], types, plans, index)

    def check_positions(self, position_ids: Tensor, input_ids: Tensor) -> Tensor:
        """position_ids as [B, S]. ValueError for another shape, or a row that the table does not have."""
        if position_ids.shape[-1:] != input_ids.shape[-1:] or position_ids.dim() > 2:
            raise ValueError(
                f"position_ids: expected {list(input_ids.shape)} like input_ids, got {list(position_ids.shape)}"
            )
        rows = self.config.max_position_embeddings + self.config.position_offset
        if position_ids.device.type == "cpu" and position_ids.numel() and not torch.compiler.is_compiling():
            low, high = (int(x) for x in position_ids.aminmax())
            if low < 0 or high >= rows:
                raise ValueError(
                    f"position_ids: expected numbers from 0 to {rows - 1}, got {low if low < 0 else high}"
                )
        return position_ids.expand(input_ids.shape)

    def check_ids(self, input_ids: Tensor) -> None:
        """ValueError where a token is not in the vocabulary."""
        low, high = (int(x) for x in input_ids.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"input_ids: expected tokens from 0 to {self.config.vocab_size - 1} (vocab_size "
                f"{self.config.vocab_size}), got {low if low < 0 else high}"
            )

    def packed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        plans: TextPlans | None,
        position_ids: Tensor | None = None,
    ) -> PackedText:
        """What forward was given, as the packed stream and its plans."""
        if plans is None:
            return self.pack(input_ids, attention_mask, token_type_ids, position_ids)
        if position_ids is not None:
            raise ValueError("position_ids: with plans expected none, as plans.place says the positions")
        if input_ids.dim() != 1 or attention_mask is not None:
            raise ValueError(
                f"input_ids: with plans expected the packed stream [T] and no attention_mask, got shape "
                f"{tuple(input_ids.shape)}"
            )
        return PackedText(
            input_ids, token_type_ids, plans, torch.arange(len(input_ids), device=input_ids.device)
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """A padded batch, or the packed stream.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: [B, S]; see `pack`. With plans: [T] and neither
                attention_mask nor position_ids.
            plans: `config.plans(lengths)`, for input that is packed already.

        Returns:
            last_hidden_state [B, S, C] with zeros at padding, or [T, C] with plans; pooler_output [B, C]. All is
            computed on the packed stream.
        """
        text = self.packed(input_ids, attention_mask, token_type_ids, plans, position_ids)
        rows = self.features(text.input_ids, text.plans, text.token_type_ids)
        return EncoderOutput(
            last_hidden_state=padded_like(rows, input_ids, text.places),
            pooler_output=self.pool(rows, text.plans),
        )


def padded_like(rows: Tensor, input_ids: Tensor, index: Tensor) -> Tensor:
    """Rows [T, C] at their places in the batch [B, S] they came from, zeros elsewhere; as they are for a stream."""
    if input_ids.dim() == 1:
        return rows
    padded = rows.new_zeros(input_ids.numel(), rows.shape[1]).index_copy(0, index, rows)
    return padded.view(*input_ids.shape, -1)


def sinusoids(places: int, dim: int) -> Tensor:
    """fp32 [places, dim]: sines in the even and cosines in the odd columns, of wavelengths from 2 pi to 20000 pi."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)
    angles = torch.arange(places, dtype=torch.float64, device="cpu")[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim].float()


@torch.no_grad()
def draw_head(module: nn.Module, std: float = 0.02) -> None:
    """The published initialisation of the layers of a head: normal, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
