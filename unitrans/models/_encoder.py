"""What objectives, domains and commands need of an encoder and of its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from transformers import PreTrainedModel

from unitrans.models.folders import check_fit


@runtime_checkable
class Encoder(Protocol):
    """An encoder of packed rows: T tokens of all samples of a batch, one sample after the other, and their plans.

    Attributes:
        config: has `plans(...)`, num_features and model_type.
        input_names: keys of a batch that `features` and `forward` take, "plans" among them.
        hides_by_vector: hidden tokens are replaced by a learned row of an objective; False: by what the encoder has
            for it.
    """

    config: Any
    input_names: Sequence[str]
    hides_by_vector: bool

    def embed_tokens(
        self, inputs: Mapping[str, Any], plans: Any, hidden: Tensor | None, mask_token: Tensor | None
    ) -> Tensor:
        """Embedded rows [T, C] of a batch; hidden: bool [T], tokens that are replaced, by mask_token [1, C] where the
        encoder hides by a vector."""

    def encode(self, x: Tensor, plans: Any) -> Tensor:
        """Embedded rows [T, C] -> last rows [T', num_features], behind the final norm; special rows are among them."""

    def features(self, *args: Any, **inputs: Any) -> Tensor:
        """`encode` of the embedded inputs; of those that the plans keep."""

    def token_rows(self, x: Tensor, plans: Any) -> Tensor:
        """Last rows [T', C] -> those of tokens that were given."""

    def pool(self, x: Tensor, plans: Any) -> Tensor:
        """Last rows [T', C] -> one row per sample [B, C]."""


class PatchEncoder(Encoder, Protocol):
    """An encoder of images cut into patches: rows [T, channels * patch_size ** 2]."""

    def embed(self, patches: Tensor) -> Tensor:
        """Patches -> embedded rows [T, C]."""

    def visible(self, patches: Tensor, plans: Any) -> Tensor:
        """The patches that the plans keep."""


class BlockEncoder(Encoder, Protocol):
    """An encoder whose blocks all have rows of one width, so that one can look at each of them."""

    def encode_blocks(self, x: Tensor, plans: Any) -> list[Tensor]:
        """Embedded rows [T, C] -> the rows behind every block, before the final norm."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of every module."""


class GraphEncoder(Encoder, Protocol):
    """An encoder of graphs, in which nodes meet under a bias of their pair."""

    pooler: nn.Module

    def embed(self, nodes: Tensor, plans: Any) -> Tensor:
        """Categories int64 [T, F] (-1: hidden) -> embedded rows [T', C]."""

    def embed_kept(self, nodes: Tensor, plans: Any) -> Tensor:
        """As `embed`: the rows that the plans keep."""

    def bias(self, plans: Any) -> Tensor:
        """The bias planes [N, P] that all blocks share."""


@runtime_checkable
class MapEncoder(Encoder, Protocol):
    """An encoder of images, which has maps for dense tasks."""

    def forward_features(
        self, pixel_values: Tensor, out_indices: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Images [B, in_chans, H, W] -> maps [B, C, h, w] of the wanted stages or blocks."""


#: Arguments of `from_pretrained` with which not the folder alone says what is opened.
_OTHER_FILES = {"config", "state_dict", "ignore_mismatched_sizes", "subfolder", "variant", "gguf_file"}


class Model(PreTrainedModel):
    """Base of all models: what tools of transformers ask of theirs.

    What is not trained when a model is made is not trained either when it is read: transformers makes new parameters
    there and forgets it.
    """

    #: `gradient_checkpointing_enable` and the flag of transformers' Trainer: every Block computes again.
    supports_gradient_checkpointing = True

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. ConfigError for a folder that is broken."""
        folder = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if isinstance(folder, str | Path) and Path(folder).is_dir() and not kwargs.keys() & _OTHER_FILES:
            check_fit(cls, Path(folder))
        found = super().from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        for name, parameter in model.named_parameters():
            if name in model.frozen_names:
                parameter.requires_grad_(False)
        return found

    def post_init(self) -> None:
        """As in transformers; called at the end of every constructor."""
        self.frozen_names = {name for name, p in self.named_parameters() if not p.requires_grad}
        super().post_init()


def encoder_prefix(model: Any) -> str:
    """Where the bare encoder sits inside a model with a head; empty for the bare encoder."""
    for name in ("encoder", getattr(model, "base_model_prefix", "")):
        if name and isinstance(getattr(model, name, None), PreTrainedModel):
            return f"{name}."
    return ""


def encoder_of(model: Any) -> Any:
    """The bare encoder of a model with a head; the model itself where it is one."""
    prefix = encoder_prefix(model)
    return getattr(model, prefix.removesuffix(".")) if prefix else model


def keep_measure(config: Any, source: Any, given: Mapping[str, Any]) -> None:
    """Lets weights that were trained as `source` be measured in `config` as they were there, where the family has a
    measure (`kept_settings`) and `given` does not set it."""
    if type(config) is not type(source):
        return
    kept: dict[str, Any] = getattr(source, "kept_settings", dict)()
    if not kept or kept.keys() & given.keys() or getattr(config, "kept_settings", dict)() == kept:
        return
    if getattr(config, "num_stages", None) == getattr(source, "num_stages", None):
        for name, value in kept.items():
            setattr(config, name, value)
