"""Masked autoencoders: what is hidden, the loss, names of the published weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unitrans
from unitrans.domains import get_domain
from unitrans.models import SwinConfig, VitConfig
from unitrans.models.convert import export_weights, load_weights
from unitrans.objectives import MaskedSignalModel, get_objective


def small(**changes: object) -> VitConfig:
    fields = {"image_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "init": "mae"}
    return VitConfig(**(fields | {"fixed_positions": True} | changes))


def model_and_batch(**options: object):
    torch.manual_seed(0)
    config = small()
    sizes = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    objective = get_objective("mae")(config, **(sizes | options))
    model = MaskedSignalModel.create(config, objective).eval()
    samples = [
        objective.corrupt({"id": str(i), "image": torch.randn(3, 24, 24)}, np.random.default_rng(i))
        for i in range(3)
    ]
    batch = get_domain("vision").collate(samples, config)
    return model, {key: batch[key] for key in model.batch_keys() if key in batch}


def test_a_quarter_stays_visible() -> None:
    _, batch = model_and_batch(mask_ratio=0.7)
    assert (~batch["mask"]).view(3, 36).sum(1).tolist() == [int(36 * (1 - 0.7))] * 3
    assert not torch.equal(batch["mask"][:36], batch["mask"][36:72])


def test_loss_is_the_mean_squared_error_of_hidden_values() -> None:
    model, batch = model_and_batch()
    output = model(**batch)
    want = (output.prediction - batch["patches"])[batch["mask"]].square().mean()
    torch.testing.assert_close(output.loss_sum / output.num_targets, want)


def test_normalised_targets() -> None:
    """The loss is in units of the target, the prediction in units of the image."""
    model, batch = model_and_batch(norm_pix_loss=True)
    output = model(**batch)
    patches = batch["patches"]
    mean, std = patches.mean(1, keepdim=True), (patches.var(1, keepdim=True) + 1e-6).sqrt()
    want = ((output.prediction - patches) / std)[batch["mask"]].square().mean()
    torch.testing.assert_close(output.loss_sum / output.num_targets, want)
    assert "cannot be viewed as images" in model.objective.note and mean.abs().max() > 0


def test_positions_are_not_trained_and_all_other_weights_are() -> None:
    model, batch = model_and_batch()
    model(**batch).loss_sum.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"encoder.pos_embed", "head.decoder.pos_embed"}
    assert model.no_weight_decay() == set()
    assert model.encoder.pos_embed[0, 0].abs().max() == 0  # of the class token


def test_positions_survive_saving_and_stay_fixed(tmp_path) -> None:
    model, batch = model_and_batch()
    with torch.no_grad():
        model.encoder.pos_embed.mul_(0.5)
    model.save_pretrained(tmp_path)
    loaded = MaskedSignalModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**batch).prediction, model(**batch).prediction)
    assert not loaded.encoder.pos_embed.requires_grad and not loaded.head.decoder.pos_embed.requires_grad


@pytest.mark.parametrize("layout", ["mae", "hf4", "hf5"])
def test_weights_go_and_come_back(layout: str) -> None:
    model, batch = model_and_batch()
    weights = export_weights(model, layout)
    assert not [name for name in weights if name.startswith(("encoder.blocks", "head."))]
    other, _ = model_and_batch()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    load_weights(other, weights, layout)
    assert torch.equal(other(**batch).prediction, model(**batch).prediction)


@pytest.mark.parametrize("normalised", [False, True])
def test_transformers_gives_the_same_numbers(normalised: bool, tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = ViTMAEConfig(
        image_size=24, patch_size=4, decoder_intermediate_size=64, layer_norm_eps=1e-6, **fields, **sizes
    )
    config.norm_pix_loss = normalised
    theirs = ViTMAEForPreTraining(config).eval()
    model, _ = model_and_batch(norm_pix_loss=normalised)
    load_weights(model, theirs.state_dict(), "hf5")  # their tables, which they leave zero
    images, noise = torch.randn(3, 3, 24, 24), torch.rand(3, 36)
    keep = noise.argsort(1)[:, :9]
    mask = torch.ones(3, 36, dtype=torch.bool).scatter(1, keep, False)
    patches, _ = model.encoder.pack(images)
    plans = model.encoder.config.plans([(6, 6)] * 3, list(~mask.view(3, 6, 6)))
    output = model(patches=patches, plans=plans, mask=mask.flatten())
    want = theirs(images, noise=noise)
    torch.testing.assert_close(output.loss_sum / output.num_targets, want.loss, rtol=1e-5, atol=1e-6)
    theirs.save_pretrained(tmp_path / "mae")  # the folder tells heads and options, which shapes do not
    whole: Any = unitrans.load(tmp_path / "mae")
    assert whole.objective.options == model.objective.options
    assert torch.equal(whole(patches=patches, plans=plans, mask=mask.flatten()).loss_sum, output.loss_sum)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"expected an encoder with one row per patch, .* mim with encoder_tokens"
    ):
        get_objective("mae")(SwinConfig())
    with pytest.raises(ValueError, match="mask_ratio: 0.99 hides all 36 patches"):
        get_objective("mae")(small(), mask_ratio=0.99)
    with pytest.raises(ValueError, match="fixed_positions: expected ape"):
        small(ape=False)
