"""Discrete targets: blocks of hidden patches, the codebook, tokenizers of the user."""

import numpy as np
import pytest
import torch

from unitrans.domains import get_domain
from unitrans.models import SwinConfig, VitConfig
from unitrans.objectives import MaskedSignalModel, get_objective, register_tokenizer
from unitrans.objectives.beit import block_mask, kmeans, nearest_visible_rows


def small(**changes: object) -> VitConfig:
    fields = {"image_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "ape": False}
    return VitConfig(**(fields | {"relative_position": "shared", "layer_scale": 0.1} | changes))


def batch_of(objective, config, count: int = 3):
    generator = torch.Generator().manual_seed(0)
    samples = [
        objective.corrupt(
            {"id": str(i), "image": torch.randn(3, 24, 24, generator=generator)}, np.random.default_rng(i)
        )
        for i in range(count)
    ]
    return get_domain("vision").collate(samples, config)


def test_blocks_hide_as_many_patches_as_published() -> None:
    masks = [block_mask((14, 14), 75, 16, np.random.default_rng(seed)) for seed in range(200)]
    counts = np.array([mask.sum() for mask in masks])
    assert counts.max() <= 75 and counts.mean() > 68
    share = np.mean(masks, axis=0)
    assert share[5:9, 5:9].mean() > share[[0, 0, -1, -1], [0, -1, 0, -1]].mean()  # blocks lie inside
    # neighbours are hidden together far more often than by chance
    together = np.mean([(mask[1:] == mask[:-1]).mean() for mask in masks])
    assert together > 0.75
    assert (masks[3] == block_mask((14, 14), 75, 16, np.random.default_rng(3))).all()
    assert block_mask((2, 3), 1, 1, np.random.default_rng(0)).sum() == 1


def test_the_codebook_separates_what_is_different() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 12, generator=generator) * 10
    which = torch.arange(5).repeat(40)
    rows = centres[which] + torch.randn(200, 12, generator=generator) * 0.1
    found = kmeans(rows, 5, seed=0)
    assert torch.cdist(centres, found).min(1).values.max() < 1.0
    assert torch.equal(found, kmeans(rows, 5, seed=0))
    with pytest.raises(ValueError, match="vocab_size: expected at most the 3 different patches"):
        kmeans(rows[:3], 5, seed=0)


def test_loss_is_the_cross_entropy_of_the_nearest_centres() -> None:
    torch.manual_seed(0)
    config = small()
    objective = get_objective("beit")(config, vocab_size=7, min_block=2)
    model = MaskedSignalModel.create(config, objective).eval()
    batch = batch_of(objective, config)
    notes = objective.fit(model.head, [batch], seed=0)
    assert "7 of 7 tokens occur in 108 training patches" in notes[0]
    assert objective.fit(model.head, [batch], seed=0) == []  # once
    output = model(**{key: batch[key] for key in model.batch_keys() if key in batch})
    distances = torch.cdist(batch["patches"], model.head.codebook)
    tokens = distances.argmin(1)[batch["mask"]]
    assert torch.equal(output.token_labels, tokens) and output.num_targets == len(tokens)
    assert (output.prediction[~batch["mask"]] == 0).all()
    shown = output.prediction[batch["mask"]]
    assert torch.equal(shown, model.head.codebook[output.token_prediction])
    changed = torch.where(batch["mask"][:, None], 5.0, batch["patches"])
    inputs = {key: batch[key] for key in model.batch_keys() if key in batch}
    again = model(**inputs | {"patches": changed})
    assert torch.equal(again.token_prediction, output.token_prediction)  # hidden patches are not seen
    hits = objective.figures(objective.collect(batch, output))
    frequent = (tokens == model.head.frequent).float().mean()
    assert hits["most_frequent"] == pytest.approx(float(frequent))


def test_the_nearest_visible_patch() -> None:
    hidden = torch.tensor([True, True, False, True, True, True, False, True, True, True])
    assert nearest_visible_rows(hidden, [(2, 3), (2, 2)]).tolist() == [2, 2, 2, 2, 2, 2, 6, 6, 6, 6]


def test_a_function_of_the_user_gives_tokens() -> None:
    def brightness(patches: torch.Tensor, grids: object) -> torch.Tensor:
        return (patches.mean(1) > 0).long()

    register_tokenizer("brightness", brightness)
    register_tokenizer("brightness", brightness)
    with pytest.raises(ValueError, match="the name 'brightness' is taken"):
        register_tokenizer("brightness", lambda patches, grids: patches)
    torch.manual_seed(0)
    config = small()
    objective = get_objective("beit")(config, vocab_size=2, min_block=2, tokenizer="brightness")
    model = MaskedSignalModel.create(config, objective).eval()
    batch = batch_of(objective, config)
    objective.fit(model.head, [batch], seed=0)
    output = model(**{key: batch[key] for key in model.batch_keys() if key in batch})
    want = (batch["patches"].mean(1) > 0).long()[batch["mask"]]
    assert torch.equal(output.token_labels, want) and output.prediction.shape == (108, 1)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"objective beit: expected an encoder with one row per patch"):
        get_objective("beit")(SwinConfig())
    with pytest.raises(ValueError, match=r"min_block: expected at most 14"):
        get_objective("beit")(small(), min_block=15)
    with pytest.raises(ValueError, match=r"tokenizer: expected one of .*kmeans.*, got 'dalle'"):
        get_objective("beit")(small(), min_block=2, tokenizer="dalle")
