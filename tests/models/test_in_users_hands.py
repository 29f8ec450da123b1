"""Our models do what users of transformers and timm expect of theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import unitrans
from unitrans import models
from unitrans.models.convert import export_weights
from unitrans.nn import Block
from unitrans.objectives import MaskedSignalModel, make_objective

SWIN = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
VIT = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TEXT = {"vocab_size": 50, "embed_dim": 16, "depth": 2, "num_heads": 2, "max_position_embeddings": 40}


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def images(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def kinds() -> list[Any]:
    swin = models.SwinConfig(**SWIN)
    return [
        models.SwinForImageClassification(models.SwinConfig(**SWIN, num_labels=3)),
        models.Swinv2ForImageClassification(models.Swinv2Config(**SWIN, num_labels=3)),
        models.VitForImageClassification(models.VitConfig(**VIT, num_labels=3)),
        models.BertForMaskedLM(models.BertConfig(**TEXT)),
        models.Gpt2LMHeadModel(models.Gpt2Config(**TEXT)),
        models.Graphormer(models.GraphormerConfig(depth=2)),
        MaskedSignalModel.create(swin, make_objective("mim", swin, {"mask_patch_size": 8})),
    ]


@pytest.mark.parametrize("model", kinds(), ids=lambda model: type(model).__name__)
def test_recomputation_on_request(model: Any) -> None:
    """Gradients are the same, and `_disable` ends it."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    model.gradient_checkpointing_enable()
    assert all(block.gradient_checkpointing for block in blocks) and model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not any(block.gradient_checkpointing for block in blocks)


def test_recomputation_changes_no_gradient() -> None:
    model = models.VitForImageClassification(models.VitConfig(**VIT, num_labels=3, drop_rate=0.1)).train()
    x, labels, grads = torch.rand(2, 3, 32, 32), torch.tensor([0, 2]), []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(1)
        model(x, labels=labels).loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


class Pictures(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixel_values": torch.full((3, 32, 32), number / 4), "labels": number % 3}


def test_trainer_of_transformers(tmp_path: Path) -> None:
    """With its flag of recomputation; predictions are logits and nothing else."""
    model = models.SwinForImageClassification(models.SwinConfig(**SWIN, num_labels=3))
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, gradient_checkpointing=True
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=Pictures())
    trainer.train()
    predictions = trainer.predict(Pictures()).predictions
    with torch.no_grad():
        want = model.eval()(torch.stack([Pictures()[n]["pixel_values"] for n in range(4)])).logits
    torch.testing.assert_close(torch.from_numpy(predictions), want)


@pytest.mark.parametrize(
    "model",
    [
        models.BertForMaskedLM(models.BertConfig(**TEXT)),
        models.BertForPreTraining(models.BertConfig(**TEXT, pooling="pooler")),
        models.Gpt2LMHeadModel(models.Gpt2Config(**TEXT)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_logits_have_one_shape(model: Any) -> None:
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(9) % 3 == 0, ids, -100)
    with torch.no_grad():
        plain, asked = randomised(model)(ids), model(ids, labels=labels)
    assert plain.logits.shape == (2, 9, 50) and torch.equal(plain.logits, asked.logits)
    assert plain.loss is None and asked.loss.isfinite()


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 5, "temperature": 0.7},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2, "use_cache": False},
    ],
    ids=str,
)
def test_generation_is_that_of_transformers(how: dict[str, Any], tmp_path: Path) -> None:
    """Greedy, sampled and by beams, with padding on the left, and ended by the token that the folder names."""
    config = transformers.GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=40,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    hf = randomised(transformers.GPT2LMHeadModel(config))
    hf.save_pretrained(tmp_path)
    model = unitrans.load(tmp_path)
    ids = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 2, 0
    written = []
    for each in (hf, model):
        torch.manual_seed(1)
        written.append(each.generate(ids, attention_mask=mask, max_new_tokens=6, **how))
    assert torch.equal(*written)
    assert model.generation_config.eos_token_id == 2


@pytest.mark.parametrize(
    "model",
    [
        models.SwinForImageClassification(models.SwinConfig(**SWIN, num_labels=0)),
        models.VitForImageClassification(models.VitConfig(**VIT, num_labels=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_without_classes_a_classifier_gives_features(model: Any, tmp_path: Path) -> None:
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = randomised(model)(x).logits
        assert torch.equal(features, getattr(model, model.base_model_prefix)(x).pooler_output)
        model.save_pretrained(tmp_path)
        assert torch.equal(unitrans.load(tmp_path)(x).logits, features)
    fine = models.SwinForImageClassification(models.SwinConfig(**SWIN, num_labels=3))
    for name in ("num_labels", "num_classes"):
        assert unitrans.load(export_weights(fine, "official"), **{name: 0})(x).logits.shape == (2, 32)


def test_plain_onnx_export_has_standard_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `torch.onnx.export` traces holds no operator of ours; `torch.export` alone keeps ours."""
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**SWIN, num_labels=3)))

    def ours() -> bool:
        return "unitrans." in str(torch.export.export(model, (images(32, 32),)).graph)

    assert ours()
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert not ours()


def test_texts_say_how_they_are_exported() -> None:
    """A padded batch cannot be packed by a fixed program, packed tokens with plans can be taken."""
    model = randomised(models.BertModel(models.BertConfig(**TEXT)))
    with pytest.raises(ValueError, match="export with packed tokens"):
        torch.export.export(model, (torch.randint(0, 50, (2, 9)),))
    ids, plans = torch.randint(0, 50, (9,)), model.config.plans([5, 4])
    program = torch.export.export(model, (ids,), {"plans": plans}).module()
    want = model(ids, plans=plans).last_hidden_state
    torch.testing.assert_close(program(ids, plans=plans).last_hidden_state, want)


def test_absolute_positions_of_other_sizes(tmp_path: Path) -> None:
    """As interpolate_pos_encoding of transformers, also where patches are not filled."""
    small = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    swin = transformers.SwinConfig(**small, use_absolute_embeddings=True)
    vit = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    for kind, config, sizes in (
        (transformers.SwinModel, swin, [(64, 64), (48, 32), (32, 32)]),
        (transformers.ViTModel, vit, [(64, 64), (33, 47), (225, 231)]),
    ):
        hf = randomised(kind(config, add_pooling_layer=kind is transformers.SwinModel))
        hf.save_pretrained(tmp_path / kind.__name__)
        model = unitrans.load(tmp_path / kind.__name__)
        for size in sizes:
            want = hf(images(*size), interpolate_pos_encoding=True).last_hidden_state
            got = model(images(*size), interpolate_pos_encoding=True).last_hidden_state
            torch.testing.assert_close(got.view(want.shape), want, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="interpolate_pos_encoding: False expects"):
            model(images(64, 64), interpolate_pos_encoding=False)


@pytest.mark.parametrize("version", ["", "v2"])
@pytest.mark.parametrize("names", [["stem", "stage1", "stage2"], ["stem", "stage2"], ["stage1"]], ids=str)
def test_backbones_of_transformers_with_their_stem(version: str, names: list[str], tmp_path: Path) -> None:
    config = getattr(transformers, f"Swin{version}Config")(**SWIN, out_features=names)
    hf = randomised(getattr(transformers, f"Swin{version}Backbone")(config))
    hf.save_pretrained(tmp_path / "hf")
    model = unitrans.load(tmp_path / "hf")
    with torch.no_grad():
        got, want = model(images(36, 52)), hf(images(36, 52)).feature_maps
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_positions_of_roberta_are_counted_as_in_transformers(tmp_path: Path) -> None:
    """max_position_embeddings counts the rows of the table, of which padding_idx + 1 are no positions."""
    config = transformers.RobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34, type_vocab_size=1,
    )  # fmt: skip
    hf = randomised(transformers.RobertaModel(config))
    hf.save_pretrained(tmp_path)
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[1, 6:] = 1
    real, places = ids != 1, torch.arange(9)[None] + 2
    for weights, given in ((tmp_path, {}), (hf.state_dict(), {"num_heads": 2})):
        for more in ({}, {"max_position_embeddings": 34}):
            model = unitrans.load(weights, **given, **more)
            assert (model.config.max_position_embeddings, model.config.position_offset) == (32, 2)
            for inputs in ({}, {"position_ids": places}):
                got = model(ids, real.long(), **inputs).last_hidden_state
                want = hf(ids, real.long(), **inputs).last_hidden_state
                torch.testing.assert_close(got[real], want[real], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="position_ids: expected numbers from 0 to 33, got 34"):
        model(ids, position_ids=places + 24)
