"""Classification and regression: losses, missing labels, weights, figures, and gradients that reach the encoder."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.nn import functional as F

from unitrans.models.swin import SwinConfig
from unitrans.models.vit import VitConfig
from unitrans.nn import patchify
from unitrans.objectives import Labels, MaskedSignalModel, make_objective

CLASSES = Labels("class", ("cat", "dog", "eel"), (6, 3, 1))
ANSWERS = Labels("multi", ("toxic", "soluble"), counts=(2, 5), known=(10, 10))
VALUES = Labels("value", ("mass", "charge"), mean=(10.0, 0.0), std=(4.0, 0.5))
SWIN = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4)
VIT = VitConfig(image_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)


def model_of(name, labels, encoder=SWIN, **options):
    torch.manual_seed(0)
    return MaskedSignalModel.create(encoder, make_objective(name, encoder, options, labels))


def batch_of(labels, encoder=SWIN):
    images = torch.rand(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    p = encoder.patch_size
    grids = [(16 // p, 16 // p)] * len(labels)
    return {
        "patches": patchify(images, p).flatten(0, 1),
        "plans": encoder.plans(grids),
        "labels": torch.as_tensor(labels),
    }


@pytest.mark.parametrize("encoder", [SWIN, VIT], ids=["swin", "vit"])
def test_the_loss_is_cross_entropy_summed_and_reaches_every_weight(encoder):
    model = model_of("classification", CLASSES, encoder)
    batch = batch_of([0, 2, 1, 1], encoder)
    output = model(**batch)
    expected = F.cross_entropy(output.prediction, batch["labels"], reduction="sum")
    torch.testing.assert_close(output.loss_sum, expected)
    assert output.prediction.shape == (4, 3) and int(output.num_targets) == 4
    output.loss_sum.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in idle if "head" in name or "norm" in name or "qkv.weight" in name], idle


def test_smoothing_and_weights_act_in_training_only():
    model = model_of("classification", CLASSES, label_smoothing=0.2, class_weights="balanced")
    batch = batch_of([0, 2, 1, 1])
    model.train()
    trained = model(**batch)
    weights = torch.tensor([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    expected = F.cross_entropy(
        trained.prediction, batch["labels"], weights, label_smoothing=0.2, reduction="sum"
    )
    torch.testing.assert_close(trained.loss_sum, expected)
    assert sum(w * n for w, n in zip(weights, CLASSES.counts, strict=True)) == pytest.approx(10)
    model.eval()
    judged = model(**batch)
    torch.testing.assert_close(
        judged.loss_sum, F.cross_entropy(judged.prediction, batch["labels"], reduction="sum")
    )


def test_mixed_labels():
    model = model_of("classification", CLASSES).eval()
    soft = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    output = model(**batch_of(soft))
    expected = -(soft * output.prediction.log_softmax(1)).sum()
    torch.testing.assert_close(output.loss_sum, expected)


def test_missing_answers_count_nothing():
    model = model_of("classification", ANSWERS, class_weights="balanced")
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0], [float("nan"), float("nan")]])
    batch = batch_of(labels)
    model.eval()
    output = model(**batch)
    z = output.prediction
    by_hand = F.softplus(-z[0, 0]) + F.softplus(z[1, 0]) + F.softplus(-z[1, 1])
    torch.testing.assert_close(output.loss_sum, by_hand)
    assert int(output.num_targets) == 3
    model.train()  # yes of the first target counts 8 / 2 times, of the second once
    output = model(**batch)
    z = output.prediction
    torch.testing.assert_close(
        output.loss_sum, 4 * F.softplus(-z[0, 0]) + F.softplus(z[1, 0]) + F.softplus(-z[1, 1])
    )
    output.loss_sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def judged(model, parts):
    """Figures of several batches as the trainer gathers them."""
    objective, sums, collected = model.objective, {}, []
    for labels in parts:
        batch = batch_of(labels)
        output = model(**batch)
        for name, pair in objective.metrics(batch, output, None).items():
            sums[name] = sums.get(name, 0) + pair
        collected.append(objective.collect(batch, output))
    together = {key: torch.cat([part[key] for part in collected]) for key in collected[0]}
    means = {name: float(pair[0] / pair[1]) for name, pair in sums.items()}
    return means | objective.figures(together), together


def test_figures_of_classes():
    model = model_of("classification", CLASSES).eval()
    found, together = judged(model, [[0, 1, 2], [2, 1], [0]])
    truth, guess = together["label"].numpy(), together["predicted"].numpy()
    assert found["accuracy"] == pytest.approx((truth == guess).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert "roc_auc" not in found
    two = model_of("classification", Labels("class", ("a", "b"), (1, 1))).eval()
    found, together = judged(two, [[0, 1, 1], [0, 1]])
    truth, score = together["label"].numpy(), together["score"].numpy()
    assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, score))
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, score))


def test_figures_of_answers_leave_out_what_is_missing_or_one_sided():
    nan = float("nan")
    labels = torch.tensor([[1.0, 1.0], [0.0, nan], [1.0, 1.0], [nan, nan], [0.0, 1.0]])
    model = model_of("classification", ANSWERS).eval()
    found, together = judged(model, [labels[:2], labels[2:]])
    known = [0, 1, 2, 4]
    expected = roc_auc_score(labels[known, 0] > 0.5, together["score"][known, 0])
    assert found["roc_auc"] == pytest.approx(expected)  # the second target has one answer only
    right = ((together["score"] > 0) == (labels > 0.5)) & labels.isfinite()
    assert found["accuracy"] == pytest.approx(float(right.sum() / labels.isfinite().sum()))


@pytest.mark.parametrize("loss", ["l1", "l2", "huber"])
def test_regression_in_units_of_the_deviation(loss):
    model = model_of("regression", VALUES, loss=loss).eval()
    nan = float("nan")
    raw = np.array([[14.0, 1.0], [2.0, nan], [10.0, -0.5]])
    samples = [model.objective.corrupt({"label": row}, None)["label"] for row in raw]
    labels = torch.tensor(np.array(samples), dtype=torch.float32)
    torch.testing.assert_close(labels[:, 0], torch.tensor([1.0, -2.0, 0.0]))
    output = model(**batch_of(labels))
    error = (output.prediction - labels)[labels.isfinite()]
    terms = {
        "l1": error.abs(),
        "l2": error**2,
        "huber": torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5),
    }
    torch.testing.assert_close(output.loss_sum, terms[loss].sum())
    assert int(output.num_targets) == 5
    found, _ = judged(model, [labels[:2], labels[2:]])
    predicted = model(**batch_of(labels[:2])).prediction, model(**batch_of(labels[2:])).prediction
    in_units = torch.cat(predicted).numpy() * [4.0, 0.5] + [10.0, 0.0]
    off = np.abs(in_units - raw)
    assert found["mae"] == pytest.approx((off[:, 0].mean() + np.nanmean(off[:, 1])) / 2, rel=1e-5)
    rmse = [np.sqrt(np.nanmean(off[:, k] ** 2)) for k in (0, 1)]
    assert found["rmse"] == pytest.approx(np.mean(rmse), rel=1e-5)
    spread = [np.nanvar(raw[:, k]) for k in (0, 1)]
    assert found["r2"] == pytest.approx(
        np.mean([1 - r**2 / s for r, s in zip(rmse, spread, strict=True)]), rel=1e-5
    )


def test_labels_travel_with_the_weights(tmp_path):
    model = model_of("classification", CLASSES, label_smoothing=0.1).eval()
    model.save_pretrained(tmp_path)
    again = MaskedSignalModel.from_pretrained(tmp_path).eval()
    assert again.objective.labels == CLASSES and again.objective.options.label_smoothing == 0.1
    batch = batch_of([0, 1])
    torch.testing.assert_close(again(**batch).prediction, model(**batch).prediction)


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="regression: expected labels of kind value, got class labels"):
        make_objective("regression", SWIN, {}, CLASSES)
    with pytest.raises(ValueError, match="classification: expected labels of kind class or multi, got none"):
        make_objective("classification", SWIN, {})
    with pytest.raises(ValueError, match=r"expected at least two classes, got \['cat'\]"):
        make_objective("classification", SWIN, {}, Labels("class", ("cat",), (3,)))


def test_layers_as_in_the_published_fine_tuning():
    model = model_of("classification", CLASSES)
    layers = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert model.num_layers == 5  # patches, three blocks, the rest
    assert layers["encoder.patch_embed.proj.weight"] == 0
    assert layers["encoder.layers.0.blocks.1.attn.qkv.weight"] == 2
    assert layers["encoder.layers.0.downsample.reduction.weight"] == 2
    assert layers["encoder.layers.1.blocks.0.mlp.fc1.bias"] == 3
    assert layers["encoder.norm.weight"] == layers["head.linear.weight"] == 4
    vit = model_of("classification", CLASSES, VIT)
    assert [
        vit.layer_id("encoder." + name)
        for name in ("cls_token", "pos_embed", "blocks.1.norm1.weight", "norm.bias")
    ] == [0, 0, 2, 3]
    assert model_of("mim", None, VIT, mask_patch_size=4).layer_id("head.mask_token") == 0
