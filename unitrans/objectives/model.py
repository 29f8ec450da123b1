"""One model for every (domain, objective) pair: an encoder and the model half of an objective."""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from unitrans.errors import ConfigError
from unitrans.models import registry
from unitrans.models._encoder import Model
from unitrans.models.images import HasImageEncoder
from unitrans.objectives.base import Labels, Objective, SignalOutput
from unitrans.objectives.flag import flag
from unitrans.objectives.registry import make_objective
from unitrans.stored import verify_model


class MaskedSignalConfig(PreTrainedConfig):
    """An encoder's configuration and an objective with its options.

    Attributes:
        encoder: configuration of the encoder, as a dict with its model_type.
        objective: name of the objective.
        objective_options: its options.
        labels: what the labels of the training data mean (`Labels` as a dict); None for an objective without.
        reading: what a domain has to know to read other samples as the training samples were read; None: nothing.
    """

    model_type = "unitrans-masked-signal"

    encoder: dict[str, Any] | None = None
    objective: str = "mim"
    objective_options: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None
    reading: dict[str, Any] | None = None

    @property
    def encoder_config(self) -> PreTrainedConfig:
        """The encoder's configuration as an object. ValueError for one that is not registered here."""
        fields = dict(self.encoder or {})
        return registry.make_config(str(fields.pop("model_type", "")), **fields)


class MaskedSignalModel(HasImageEncoder, Model):
    """Hide part of the signal, predict it.

    Example:
        >>> objective = make_objective("mim", SwinConfig(image_size=64), {"mask_patch_size": 32})
        >>> model = MaskedSignalModel.create(SwinConfig(image_size=64), objective)
    """

    config_class = MaskedSignalConfig

    def __init__(self, config: MaskedSignalConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config
        self.encoder = registry.make_encoder(encoder_config)
        self.main_input_name = self.encoder.input_names[0]
        labels = None if config.labels is None else Labels.from_dict(config.labels)
        self.objective = make_objective(
            config.objective, encoder_config, config.objective_options or {}, labels
        )
        self.head: nn.Module = self.objective.build_head()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, but what is missing is not drawn at random without a word.

        Raises:
            ConfigError: a file of a checkpoint has changed, or weights of the model are not there.
        """
        verify_model(Path(pretrained_model_name_or_path))
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ConfigError(
                f"{pretrained_model_name_or_path}: {len(missing)} weights of the model are missing, {missing[0]} "
                "first: the checkpoint is not whole, use another one"
            )
        return (model, info) if wants_info else model

    @classmethod
    def create(
        cls, encoder_config: PreTrainedConfig, objective: Objective, reading: dict[str, Any] | None = None
    ) -> "MaskedSignalModel":
        """A freshly initialised model for this encoder and objective; reading as in `MaskedSignalConfig`."""
        return cls(
            MaskedSignalConfig(
                encoder=encoder_config.to_dict(),
                objective=objective.name,
                objective_options=objective.options.model_dump(),
                labels=None if objective.labels is None else dataclasses.asdict(objective.labels),
                reading=reading,
            )
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Heads keep torch's initialisation (the official decoder is a plain convolution); encoders have their own."""

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed, as in the official recipe: what is not a matrix of a layer."""
        if self.objective.decays_tokens:
            return set()
        decayed = getattr(self.encoder, "decays_mask_token", False)
        names = set() if decayed else {"head.mask_token"}
        names |= {"encoder." + name for name in self.encoder.no_weight_decay()}
        return {name for name, _ in self.named_parameters() if name in names}

    def no_weight_decay_keywords(self) -> tuple[str, ...]:
        """Parts of parameter names that are not decayed, beside biases and norms."""
        return tuple(self.encoder.no_weight_decay_keywords())

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart: the embedding, every block, and what follows."""
        return int(self.encoder.num_layers)

    def layer_id(self, name: str) -> int:
        """The layer of a parameter, from 0 (embeddings, mask token) to num_layers - 1 (final norm, head)."""
        part, _, rest = name.partition(".")
        if part == "encoder":
            return int(self.encoder.layer_id(rest))
        return 0 if rest.rpartition(".")[2] == "mask_token" and "decoder" not in rest else self.num_layers - 1

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        """Rows of the input of a batch, in all domains."""
        if self.objective.joint:
            return sum(
                len(batch[name][part.input_names[0]])
                for name, part in self.encoder.parts.items()
                if name in batch
            )
        return len(batch[self.main_input_name])

    def freeze_encoder(self) -> None:
        """Trains the head alone. ValueError where the head has nothing to train, or needs an encoder that learns."""
        if not any(parameter.requires_grad for parameter in self.head.parameters()):
            raise ValueError(
                f"freeze: the head of objective {self.objective.name} has no parameters to train"
            )
        if hasattr(self.head, "after_update"):
            raise ValueError(
                f"freeze: the teacher of objective {self.objective.name} follows an encoder that learns"
            )
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "MaskedSignalModel":
        """As in torch; a frozen encoder computes as in evaluation."""
        super().train(mode)
        if mode and not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def forward(self, **batch: Any) -> SignalOutput:
        """The tensors of a batch as the objective's head takes them -> loss_sum, num_targets, prediction."""
        options = self.objective.options
        if self.training and getattr(options, "flag_steps", None):
            nodes = batch["nodes"]
            rows = torch.empty(len(nodes), self.encoder.config.embed_dim, device=nodes.device)
            return flag(lambda moved: self.head(self.encoder, perturbation=moved, **batch), rows, options)
        return self.head(self.encoder, **batch)

    def after_update(self) -> None:
        """What a head does after every update of the optimizer (a teacher follows). CollapseError ends the run."""
        after = getattr(self.head, "after_update", None)
        if after is not None:
            after(self.encoder)

    def batch_keys(self) -> frozenset[str]:
        """The keys of a batch that forward takes; the others (ids, grids) are for people and pictures."""
        parameters = inspect.signature(self.head.forward).parameters.values()
        names = {p.name for p in parameters if p.kind != p.VAR_KEYWORD} - {"encoder"}
        return frozenset(names) | frozenset(self.encoder.input_names)
