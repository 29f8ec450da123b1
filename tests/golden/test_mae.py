"""MAE against the published implementation: latents, predictions, loss, all gradients."""

import functools
import json
import re

import golden_cases
import pytest
import torch

from unitrans.models import VitConfig
from unitrans.models.convert import export_tensors, load_weights
from unitrans.nn import block
from unitrans.objectives import MaskedSignalModel, get_objective


def mae_cases() -> list[str]:
    """Every case of the published class, at least the one that this was written against."""
    found = dict.fromkeys(["11a_mae_ms_fb"])
    for file in sorted(golden_cases.GOLDEN.glob("*/meta.json")):
        cls = str(json.loads(file.read_text()).get("constructor", {}).get("cls", ""))
        if "MaskedAutoencoderViT" in cls:
            found[file.parent.name] = None
    return list(found)


@pytest.mark.parametrize("name", mae_cases())
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_mae(golden, monkeypatch: pytest.MonkeyPatch, name: str, backend: str) -> None:
    call = functools.partial(block.attention_qkvpacked, backend=backend)
    monkeypatch.setattr(block, "attention_qkvpacked", call)
    case = golden(name)
    how = case.meta["constructor"]
    if not case.weights or "noise" not in case.inputs:
        pytest.skip(f"{name} has no weights or no noise")
    same = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio")
    fields = {key: how[key] for key in same if key in how}
    fields["image_size"] = fields.pop("img_size")
    config = VitConfig(**fields, layer_norm_eps=how.get("norm_eps", 1e-6), fixed_positions=True, init="mae")
    decoder = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads", "mask_ratio", "norm_pix_loss")
    objective = get_objective("mae")(config, **{key: how[key] for key in decoder if key in how})
    model = MaskedSignalModel.create(config, objective).eval()
    if how["mlp_ratio"] != 4.0:  # theirs holds for both halves
        model = with_decoder_ratio(model, how["mlp_ratio"])
    if "0.03" not in json.dumps(case.meta.get("notes", "")):
        table = model.encoder.pos_embed.detach()
        torch.testing.assert_close(table, case.weights["pos_embed"], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            model.head.decoder.pos_embed.detach(), case.weights["decoder_pos_embed"], rtol=0, atol=1e-6
        )
    load_weights(model, case.weights, "mae")

    images, noise = case.inputs["imgs"], case.inputs["noise"]
    shuffle = noise.argsort(1)
    keep = shuffle[:, : int(noise.shape[1] * (1 - how.get("mask_ratio", 0.75)))]
    mask = torch.ones(noise.shape, dtype=torch.bool).scatter(1, keep, False)
    patches, _ = model.encoder.pack(images)
    h, w = config.grid
    plans = config.plans([(h, w)] * len(images), list(~mask.view(-1, h, w)))
    latent = model.encoder(patches=patches, plans=plans).last_hidden_state.view(
        len(images), -1, config.embed_dim
    )
    order = torch.cat([torch.zeros(len(keep), 1, dtype=torch.long), keep.argsort(1).argsort(1) + 1], 1)
    rows = model.encoder.encode(model.encoder.embed(model.encoder.visible(patches, plans)), plans)
    predicted = model.head.decoder(rows, plans.whole).view(len(images), h * w, -1)
    output = model(patches=patches, plans=plans, mask=mask.flatten())
    loss = output.loss_sum / output.num_targets
    loss.backward()
    got = {
        "out.loss": loss,
        "out.mask": mask.float(),
        "out.pred": predicted,
        "out.latent": torch.gather(latent, 1, order[..., None].expand(-1, -1, config.embed_dim)),
    }
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    exported = {f"grad.{n}": g for n, g in export_tensors(model, gradients, "mae").items()}
    wanted = {key for key in case.expected if re.match(r"grad\.", key)}
    assert wanted == exported.keys()
    got |= {key: tensor.reshape(case.expected[key].shape) for key, tensor in exported.items()}
    case.check({key: tensor for key, tensor in got.items() if key in case.expected})


def with_decoder_ratio(model: MaskedSignalModel, ratio: float) -> MaskedSignalModel:
    """The model with MLPs of another width in its decoder, as the published constructor has one ratio for both."""
    old = model.head.decoder
    model.head.decoder = type(old)(
        old.embed.in_features,
        old.embed.out_features,
        len(old.blocks),
        old.blocks[0].attn.num_heads,
        old.pred.out_features,
        grid=old.grid,
        mlp_ratio=ratio,
    )
    return model.eval()
