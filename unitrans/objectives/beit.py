"""Masked image modelling with discrete targets, as in BEiT (Bao et al., ICLR 2022, arXiv:2106.08254).

Blocks of patches are hidden; the encoder sees one learned row in their place and says for each which token of a
codebook it is. Tokens come from k-means on the training patches, or from a function of the user's
(`register_tokenizer`), such as the image tokenizer of the paper.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models._encoder import PatchEncoder
from unitrans.models.whole import Grid
from unitrans.objectives.base import (
    ACCURACY,
    Labels,
    Measure,
    Objective,
    SignalOutput,
    check_one_row_per_patch,
)

MAX_PATCHES = 100_000  # that a codebook is made from

#: Normalised patches [T, C*p*p] and the (h, w) of their images -> tokens int64 [T].
Tokenizer = Callable[[Tensor, Sequence[Grid]], Tensor]
_TOKENIZERS: dict[str, Tokenizer] = {}


def register_tokenizer(name: str, tokenizer: Tokenizer) -> None:
    """Makes a function known as `objective.tokenizer`; it must be registered wherever the model is used.

    Raises:
        ValueError: the name is taken.
    """
    if name == "kmeans" or _TOKENIZERS.get(name, tokenizer) is not tokenizer:
        raise ValueError(f"tokenizer: the name {name!r} is taken, choose another one")
    _TOKENIZERS[name] = tokenizer


class BeitOptions(pydantic.BaseModel):
    """The `objective` section of a run with beit."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(
        0.4, gt=0, lt=1, description="Share of patches that are hidden at most, rounded down."
    )
    min_block: int = Field(
        16, ge=1, description="Patches of the smallest block that is hidden, before it meets other blocks."
    )
    tokenizer: str = Field(
        "kmeans",
        description="kmeans: a codebook is made from the training patches when a run begins. Another name: a function "
        "given to unitrans.objectives.register_tokenizer.",
    )
    vocab_size: int = Field(512, ge=2, description="How many tokens there are (8,192 in the paper).")


class DiscreteTargets(Objective):
    """Hide blocks of patches, predict their tokens.

    Raises:
        ValueError: an encoder with merges, blocks that do not fit, or a tokenizer that is not registered.
    """

    name = "beit"
    domains = ("vision",)
    Options = BeitOptions
    predicts = "patch_tokens"
    loss_unit = "nats a hidden patch"
    measures: ClassVar[Mapping[str, Measure]] = {"accuracy": ACCURACY}
    metric_names = ("accuracy",)
    headline = "accuracy"
    greater_is_better = True
    needs_fit = True
    beside = {
        "most_frequent": "most frequent token of the training patches",
        "nearest_visible": "token of the nearest visible patch",
    }

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        check_one_row_per_patch(self.name, encoder_config)
        count = math.prod(encoder_config.grid)
        if int(count * self.options.mask_ratio) < self.options.min_block:
            raise ValueError(
                f"objective.min_block: expected at most {int(count * self.options.mask_ratio)}, the patches that are "
                f"hidden of {count}, got {self.options.min_block}"
            )
        if self.options.tokenizer != "kmeans" and self.options.tokenizer not in _TOKENIZERS:
            known = ", ".join(["kmeans", *sorted(_TOKENIZERS)])
            raise ValueError(
                f"objective.tokenizer: expected one of {known}, got {self.options.tokenizer!r}; "
                "unitrans.objectives.register_tokenizer adds one"
            )

    @property
    def note(self) -> str | None:
        """What has to be said beside pictures and figures."""
        if self.options.tokenizer != "kmeans":
            return None
        return (
            "pictures show the middle of the predicted token: what all patches of that token have in common"
        )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add `mask` bool [h, w] over the patch grid, True = hidden and predicted."""
        p = self.encoder_config.patch_size
        grid = sample["image"].shape[1] // p, sample["image"].shape[2] // p
        count = int(math.prod(grid) * self.options.mask_ratio)
        return sample | {"mask": torch.from_numpy(block_mask(grid, count, self.options.min_block, rng))}

    def build_head(self) -> "TokenClassifier":
        """Mask token and classifier."""
        config, options = self.encoder_config, self.options
        return TokenClassifier(
            config.embed_dim,
            config.num_features,
            config.in_chans * config.patch_size**2,
            options.vocab_size,
            None if options.tokenizer == "kmeans" else _TOKENIZERS[options.tokenizer],
        )

    def fit(self, head: nn.Module, batches: Iterable[dict[str, Any]], seed: int) -> list[str]:
        """Makes the codebook from training images; see `Objective.fit`."""
        assert isinstance(head, TokenClassifier)
        if head.is_fitted:
            return []
        return [head.fit(batches, seed)]

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        """accuracy: how often the likeliest token of a hidden patch is right."""
        right = output["token_prediction"] == output["token_labels"]
        return {
            "accuracy": torch.stack([right.sum(), torch.tensor(right.numel(), device=right.device)]).double()
        }

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """How often the simple predictors are right, and how many tokens there are."""
        return {"hits": output["simple_hits"][None]}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """most_frequent and nearest_visible: the accuracy of simple predictors on the same tokens."""
        frequent, nearest, count = collected["hits"].sum(0).tolist()
        return {"most_frequent": frequent / max(count, 1), "nearest_visible": nearest / max(count, 1)}


def block_mask(grid: Grid, count: int, min_block: int, rng: np.random.Generator) -> np.ndarray:
    """bool [h, w]: rectangles of at least min_block patches until count patches are hidden or no more fit.

    Sides have a ratio from 0.3 to 1 / 0.3 (algorithm 1 of the paper); at least one patch is hidden.
    """
    h, w = grid
    mask, hidden = np.zeros(grid, dtype=bool), 0
    tries = 0
    while hidden < count and tries < 10:
        area = rng.uniform(min_block, max(min_block, count - hidden))
        aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        rows, cols = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        tries += 1
        if not (0 < rows <= h and 0 < cols <= w):
            continue
        top, left = int(rng.integers(h - rows + 1)), int(rng.integers(w - cols + 1))
        block = mask[top : top + rows, left : left + cols]
        new = int((~block).sum())
        if 0 < new <= count - hidden:
            block[:], hidden, tries = True, hidden + new, 0
    if not hidden:
        mask.flat[int(rng.integers(h * w))] = True
    return mask


@dataclass
class TokenOutput(SignalOutput):
    """token_prediction, token_labels: int64 [M], likeliest and true tokens of hidden patches; simple_hits: int64 [3],
    how often the most frequent token and that of the nearest visible patch are right, and M. Of eval mode only."""

    token_prediction: Tensor | None = None
    token_labels: Tensor | None = None
    simple_hits: Tensor | None = None


class TokenClassifier(nn.Module):
    """Mask token in front of an image encoder, a linear classifier behind it, and the codebook.

    Args:
        embed_dim, num_features: widths of the encoder's first and last rows.
        patch_values: in_chans * p * p.
        vocab_size: K tokens.
        tokenizer: None: the nearest row of the codebook.
    """

    codebook: Tensor
    frequent: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_features: int,
        patch_values: int,
        vocab_size: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size, self.tokenizer = vocab_size, tokenizer
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.classifier = nn.Linear(num_features, vocab_size)
        rows = vocab_size if tokenizer is None else 0
        self.register_buffer("codebook", torch.zeros(rows, patch_values))
        self.register_buffer("frequent", torch.tensor(-1))  # -1: not fitted
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @property
    def is_fitted(self) -> bool:
        """Whether the codebook has been made."""
        return int(self.frequent) >= 0

    @torch.no_grad()
    def fit(self, batches: Iterable[dict[str, Any]], seed: int) -> str:
        """Makes the codebook by k-means and counts tokens; returns a sentence about it.

        Raises:
            ValueError: fewer different patches than tokens, or tokens out of range.
        """
        patches, tokens, total = [], [], 0
        for batch in batches:
            patches.append(batch["patches"])
            if self.tokenizer is not None:
                tokens.append(self.tokens(batch["patches"], batch["grids"]))
            total += len(batch["patches"])
            if total >= MAX_PATCHES:
                break
        rows = torch.cat(patches)
        if self.tokenizer is None:
            self.codebook.copy_(kmeans(rows, self.vocab_size, seed))
            tokens = [self.tokens(rows, [])]
        found = torch.cat(tokens)
        if found.min() < 0 or found.max() >= self.vocab_size:
            raise ValueError(
                f"objective.vocab_size: expected above every token, got {self.vocab_size} and tokens from "
                f"{int(found.min())} to {int(found.max())}"
            )
        counts = torch.bincount(found, minlength=self.vocab_size)
        self.frequent.copy_(counts.argmax())
        share = counts.max() / counts.sum()
        return (
            f"{int((counts > 0).sum()):,} of {self.vocab_size:,} tokens occur in {len(found):,} training patches, the "
            f"most frequent in {float(share):.1%}"
        )

    def tokens(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """The token of every patch, int64 [T]."""
        if self.tokenizer is not None:
            return self.tokenizer(patches, grids)
        half_norm = self.codebook.square().sum(1) / 2
        parts = [(half_norm - part @ self.codebook.t()).argmin(1) for part in patches.float().split(8192)]
        return torch.cat(parts)

    def forward(
        self,
        encoder: PatchEncoder,
        patches: Tensor,
        plans: Any,
        mask: Tensor | None = None,
        grids: Sequence[Grid] = (),
    ) -> TokenOutput:
        """Hide, encode, classify.

        Args:
            encoder: of patches.
            patches: [T, in_chans*p*p], normalised pixels.
            plans: the encoder's plans of the batch.
            mask: bool [T], True = hidden and predicted; None hides nothing and sums nothing.
            grids: (h, w) of every image.

        Returns:
            loss_sum: summed cross-entropy in nats; num_targets: hidden patches; prediction: with a codebook
            [T, in_chans*p*p], the middle of the predicted token, else int64 [T, 1]; zeros where nothing is hidden.
        """
        hidden = patches.new_zeros(len(patches), dtype=torch.bool) if mask is None else mask
        with torch.no_grad():
            tokens = self.tokens(patches, grids)
        x = encoder.embed(patches)
        x = torch.where(hidden[:, None], self.mask_token.to(x.dtype), x)
        places = hidden.nonzero().squeeze(1)
        logits = self.classifier(
            encoder.token_rows(encoder.encode(x, plans), plans).index_select(0, places)
        ).float()
        labels = tokens.index_select(0, places)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        output = TokenOutput(loss_sum=loss, num_targets=torch.tensor(len(labels), device=loss.device))
        if not self.training:
            self._describe(output, logits.detach(), tokens, hidden, grids)
        return output

    def _describe(
        self, output: TokenOutput, logits: Tensor, tokens: Tensor, hidden: Tensor, grids: Sequence[Grid]
    ) -> None:
        guess, labels = logits.argmax(1), tokens[hidden]
        shown = guess[:, None] if self.tokenizer is not None else self.codebook[guess]
        full = shown.new_zeros(len(hidden), shown.shape[1])
        output.prediction = full.masked_scatter(hidden[:, None], shown)
        output.token_prediction, output.token_labels = guess, labels
        near = tokens[nearest_visible_rows(hidden, grids)][hidden]
        hits = [(labels == self.frequent).sum(), (near == labels).sum(), torch.tensor(len(labels))]
        output.simple_hits = torch.stack([hit.to(labels.device) for hit in hits])


def nearest_visible_rows(hidden: Tensor, grids: Sequence[Grid]) -> Tensor:
    """int64 [T]: for every patch of these images the nearest visible one; itself where it is visible or none is."""
    nearest, start = torch.arange(len(hidden), device=hidden.device), 0
    for h, w in grids:
        masked = hidden[start : start + h * w]
        place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).view(-1, 2).double().to(hidden.device)
        seen = (~masked).nonzero().squeeze(1)
        if len(seen):
            closest = torch.cdist(place[masked], place[seen]).argmin(1)
            nearest[start : start + h * w][masked] = seen[closest] + start
        start += h * w
    return nearest


def kmeans(rows: Tensor, count: int, seed: int) -> Tensor:
    """Centres [count, D] of patches [n, D] by scikit-learn's MiniBatchKMeans.

    Raises:
        ValueError: too few different patches.
    """
    from sklearn.cluster import MiniBatchKMeans

    values = rows.float().cpu().numpy()
    rng = np.random.default_rng(seed)
    if len(values) > MAX_PATCHES:
        values = values[np.sort(rng.choice(len(values), MAX_PATCHES, replace=False))]
    different = len(np.unique(values, axis=0))
    if different < count:
        raise ValueError(
            f"objective.vocab_size: expected at most the {different:,} different patches that the codebook is made "
            f"from, got {count:,}"
        )
    model = MiniBatchKMeans(count, random_state=seed % 2**32, batch_size=4096, n_init=1, max_iter=30)
    return torch.from_numpy(model.fit(values).cluster_centers_).float()
