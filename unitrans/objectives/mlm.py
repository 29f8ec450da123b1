"""Masked language modelling as in BERT (Devlin et al., NAACL 2019, section 3.1).

Some tokens are chosen; most of them are replaced by the mask token, some by a random one, some stay; the model
says for each of the chosen which token it was. The vocabulary projection and the loss run on these rows only.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unitrans.models.text import TextEncoder
from unitrans.models.text_heads import IGNORED, MaskedLMHead, head_arguments
from unitrans.objectives.base import ACCURACY, PERPLEXITY, Labels, Measure, Objective, Predicts, SignalOutput
from unitrans.objectives.decoder import BlockDecoder, decoder_sizes

CANDIDATES = 5  # tokens that are kept of every prediction, likeliest first


class MlmOptions(pydantic.BaseModel):
    """The `objective` section of a run with mlm."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mlm_probability: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="Share of tokens that are hidden and predicted; special tokens never are.",
    )
    mask_replace_prob: float = Field(
        0.8, ge=0, le=1, description="Share of the hidden tokens that are replaced by the mask token."
    )
    random_replace_prob: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the hidden tokens that are replaced by a random token; the rest stays.",
    )
    whole_word_mask: bool = Field(
        False, description="Hide whole words instead of single tokens (their tokens stand or fall together)."
    )
    exact_count: bool = Field(
        False,
        description="true: the share of every sample is hidden, rounded, at least one token (original BERT). false: "
        "each token (or word) is hidden with that probability, so the count varies (transformers, RoBERTa).",
    )

    encoder_tokens: Literal["all", "visible"] = Field(
        "all",
        description="all: the encoder sees hidden tokens as they were replaced (published). visible: it does not see "
        "them at all, and a decoder of Blocks gets learned rows back in their place; nothing is then replaced.",
    )
    decoder_depth: int = Field(1, ge=1, description="Blocks of the decoder with encoder_tokens=visible.")

    @pydantic.model_validator(mode="after")
    def _shares(self) -> "MlmOptions":
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError(
                f"mask_replace_prob + random_replace_prob: expected at most 1, got "
                f"{self.mask_replace_prob + self.random_replace_prob:g}"
            )
        return self


class TokenObjective(Objective):
    """What the objectives share that predict tokens of text: accuracy and perplexity."""

    domains = ("text",)
    predicts: Predicts = "tokens"
    loss_unit = "nats a hidden token"
    measures: ClassVar[Mapping[str, Measure]] = {"accuracy": ACCURACY, "perplexity": PERPLEXITY}
    metric_names = ("accuracy",)
    headline = "accuracy"
    greater_is_better = True

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        """accuracy: share of the predicted tokens whose likeliest candidate is right."""
        return {"accuracy": token_accuracy(output.prediction, batch["labels"])}

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """The loss and its targets, of a batch."""
        assert output.loss_sum is not None and output.num_targets is not None
        return {"nats": output.loss_sum.detach().double().view(1), "tokens": output.num_targets.view(1)}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """perplexity: the exponential of the mean loss per predicted token."""
        mean = float(collected["nats"].sum()) / max(int(collected["tokens"].sum()), 1)
        return {"perplexity": math.exp(min(mean, 700.0))}


class MaskedLanguageModeling(TokenObjective):
    """Hide tokens, predict them.

    Args:
        encoder_config: configuration of a text encoder (vocab_size, mask_token_id, num_features, ...).
        options: as in `MlmOptions`.

    Raises:
        ValueError: an encoder that has no mask token where one is needed, or a causal one.
    """

    name = "mlm"
    Options: ClassVar[type[pydantic.BaseModel]] = MlmOptions

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        if encoder_config.causal:
            raise ValueError(
                f"objective mlm: expected an encoder that sees both sides, got "
                f"{encoder_config.model_type.removeprefix('unitrans-')}; use objective clm"
            )
        mask = encoder_config.mask_token_id
        if mask is None and self.options.mask_replace_prob and self.options.encoder_tokens == "all":
            raise ValueError(
                "model.mask_token_id: mlm needs the token that stands for a hidden one, and this tokenizer has none"
            )
        if mask is not None and not 0 <= mask < encoder_config.vocab_size:
            raise ValueError(
                f"model.mask_token_id: expected a token from 0 to {encoder_config.vocab_size - 1}, got {mask}"
            )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Hide tokens of a sample.

        sample["input_ids"] is int64 [n], sample["special"] bool [n] (never hidden) and, for whole words,
        sample["word_start"] bool [n]. The result has `input_ids` with the replacements and `labels` int64 [n]:
        the token where it is predicted, -100 elsewhere; or, where the encoder sees visible tokens only, the tokens as
        they were and `visible` bool [n].
        """
        ids, special = sample["input_ids"], sample["special"]
        chosen = self._chosen(ids, special, sample.get("word_start"), rng)
        labels = np.where(chosen, ids, IGNORED)
        if self.options.encoder_tokens == "visible":
            return sample | {"labels": labels, "visible": ~chosen}
        fate, drawn = rng.random(len(ids)), rng.integers(0, self.encoder_config.vocab_size, len(ids))
        by_mask, by_random = self.options.mask_replace_prob, self.options.random_replace_prob
        if by_mask and self.encoder_config.mask_token_id is None:
            raise ValueError(
                "model.mask_token_id: mlm needs the token that stands for a hidden one, got none"
            )
        corrupted = np.where(chosen & (fate < by_mask), self.encoder_config.mask_token_id, ids)
        corrupted = np.where(chosen & (fate >= by_mask) & (fate < by_mask + by_random), drawn, corrupted)
        return sample | {"input_ids": corrupted.astype(np.int64), "labels": labels}

    def _chosen(
        self, ids: np.ndarray, special: np.ndarray, word_start: np.ndarray | None, rng: np.random.Generator
    ) -> np.ndarray:
        """bool [n]: which tokens are predicted."""
        options = self.options
        unit = np.arange(len(ids))
        if options.whole_word_mask:
            if word_start is None:
                raise ValueError(
                    "objective.whole_word_mask: the tokenizer does not tell where words begin; set it to false"
                )
            unit = np.cumsum(word_start | special)  # a special token ends a word
        units, size = np.unique(unit[~special], return_counts=True)
        if not len(units):
            return np.zeros(len(ids), dtype=bool)
        if options.exact_count:
            wanted = max(1, round(float(size.sum()) * options.mlm_probability))
            taken = 0
            hidden: list[int] = []
            for place in rng.permutation(len(units)):
                if taken + size[place] <= wanted or not hidden:
                    hidden.append(int(place))
                    taken += int(size[place])
            picked = units[hidden]
        else:
            picked = units[rng.random(len(units)) < options.mlm_probability]
        return np.isin(unit, picked) & ~special

    def build_head(self) -> nn.Module:
        """The layers behind the encoder; the last one is its table of tokens."""
        config, decoder = self.encoder_config, None
        if self.options.encoder_tokens == "visible":
            dim = config.num_features
            decoder = BlockDecoder(dim, *self._decoder_sizes(), dim)
        return MlmHead(*head_arguments(config), decoder=decoder)

    def _decoder_sizes(self) -> tuple[int, int, int]:
        """Width, Blocks and heads."""
        width, heads = decoder_sizes(None, None, self.encoder_config.num_features)
        return width, self.options.decoder_depth, heads


class PredictsTokens:
    """What the heads share that predict tokens: a mixin of modules that turn rows into scores."""

    training: bool

    scores: Callable[
        [Tensor, Tensor], Tensor
    ]  # rows [P, C], the encoder's table of tokens [V, C] -> logits [P, V]

    @staticmethod
    def count(labels: Tensor | None = None, predicted: Tensor | None = None) -> int:
        """num_targets of a batch, before anything is computed: how many tokens are predicted and have a label."""
        if labels is None:
            return 0
        return int((labels != IGNORED).sum()) if predicted is None else len(predicted)

    def predict(
        self, encoder: TextEncoder, rows: Tensor, labels: Tensor | None, predicted: Tensor | None
    ) -> SignalOutput:
        """Tokens from the rows [T, C] of a batch, and the loss; labels and predicted as in `MlmHead.forward`."""
        if predicted is None:
            every = torch.arange(len(rows), device=rows.device)
            predicted = every if labels is None else every[labels != IGNORED]
        logits = self.scores(rows.index_select(0, predicted), encoder.embeddings.word_embeddings.weight)
        targets = None if labels is None else labels.index_select(0, predicted)
        return token_output(logits, targets, predicted, len(rows), with_candidates=not self.training)


class MlmHead(MaskedLMHead, PredictsTokens):
    """The head of BERT, trained on hidden tokens.

    Args:
        args: as in `MaskedLMHead`.
        decoder: of whole documents whose hidden tokens the encoder does not see; None: it sees all.
    """

    def __init__(self, *args: Any, decoder: BlockDecoder | None = None) -> None:
        super().__init__(*args)
        self.decoder = decoder

    def forward(  # type: ignore[override]
        self,
        encoder: TextEncoder,
        input_ids: Tensor,
        plans: Any,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """Encode, predict.

        Args:
            encoder: of texts.
            input_ids: int64 [T], hidden tokens replaced.
            plans: the encoder's plans of the batch.
            token_type_ids: int64 [T].
            labels: int64 [T], -100 where nothing is predicted; None predicts every row and sums no loss.
            predicted: int64 [P], the rows whose label is not -100; None: they are looked for.

        Returns:
            loss_sum: summed cross-entropy in nats; num_targets: P; prediction: int64 [T, CANDIDATES] in eval mode,
            the likeliest tokens (-100 in rows that are not predicted).
        """
        rows = encoder.encode(self.enter(encoder, input_ids, plans, token_type_ids), plans)
        return self.leave(encoder, rows, input_ids, plans, labels, predicted)

    def enter(
        self, encoder: TextEncoder, input_ids: Tensor, plans: Any, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Rows [T, C] for the encoder; see `forward`."""
        return encoder.embed_kept(input_ids, plans, token_type_ids, tied=True)

    def leave(
        self,
        encoder: TextEncoder,
        rows: Tensor,
        input_ids: Tensor,
        plans: Any,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """What is predicted from the encoder's last rows [T, C], and the loss; see `forward`."""
        if self.decoder is not None and plans.whole is not None:
            rows = self.decoder(rows, plans.whole)
        return self.predict(encoder, rows, labels, predicted)


def token_output(
    logits: Tensor, targets: Tensor | None, rows: Tensor, num_rows: int, *, with_candidates: bool
) -> SignalOutput:
    """What a head that predicts tokens returns.

    Args:
        logits: [P, V]. targets: int64 [P]. rows: int64 [P], where in the stream of num_rows rows they are.
        with_candidates: also the likeliest tokens of every row.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    loss = logits.sum() * 0 if targets is None else F.cross_entropy(logits, targets, reduction="sum")
    prediction = None
    if with_candidates:
        best = logits.detach().topk(min(CANDIDATES, logits.shape[1])).indices
        prediction = best.new_full((num_rows, best.shape[1]), IGNORED).index_copy(0, rows, best)
    count = torch.tensor(0 if targets is None else len(rows), device=logits.device)
    return SignalOutput(loss_sum=loss, num_targets=count, prediction=prediction)


def token_accuracy(prediction: Tensor | None, labels: Tensor) -> Tensor:
    """fp64 [2]: how many labels the likeliest candidates [T, CANDIDATES] hit, and how many there are."""
    assert prediction is not None, "candidates are made in eval mode"
    asked = labels != IGNORED
    right = (prediction[:, 0] == labels) & asked
    return torch.stack([right.sum(), asked.sum()]).double()
