"""Published recipes: the global batch, rates, lengths and models that their papers and official files state."""

import math
from types import SimpleNamespace

import pytest
import torch

from unitrans.objectives import Labels, MaskedSignalModel
from unitrans.training.config import resolve, shipped_configurations
from unitrans.training.session import Session, accumulation_steps

IMAGES = 1_281_167  # of ImageNet-1k

# name: layers of the encoder, width of its last rows, published updates' samples, peak rate, epochs, epoch of the drop
SIMMIM = {
    "simmim-swin-base-100ep": (24, 1024, 2048, 8e-4, 100, None),
    "simmim-swin-base-800ep": (24, 1024, 2048, 4e-4, 800, 700),
    "simmim-swin-large-800ep": (24, 1536, 2048, 4e-4, 800, 700),
    "simmim-swinv2-base-800ep": (24, 1024, 2048, 4e-4, 800, 700),
    "simmim-vit-base-800ep": (12, 768, 2048, 4e-4, 800, 700),
}

# name: parameters with 1,000 classes in millions, px, global batch, peak rate, epochs, of warm-up, drop path, decay
SUPERVISED = {
    "swin-tiny-224": (28.3, 224, 1024, 1e-3, 300, 20, 0.2, 0.05),
    "swin-small-224": (49.6, 224, 1024, 1e-3, 300, 20, 0.3, 0.05),
    "swin-base-224": (87.8, 224, 1024, 1e-3, 300, 20, 0.5, 0.05),
    "swin-tiny-c24-256": (28.3, 256, 1024, 1e-3, 300, 20, 0.2, 0.05),
    "swin-tiny-224-22k": (28.3, 224, 4096, 1e-3, 90, 5, 0.1, 0.05),
    "swin-small-224-22k": (49.6, 224, 4096, 1e-3, 90, 5, 0.2, 0.05),
    "swin-base-224-22k": (87.8, 224, 4096, 1e-3, 90, 5, 0.2, 0.05),
    "swin-large-224-22k": (196.5, 224, 4096, 1e-3, 90, 5, 0.2, 0.05),
    "swin-tiny-224-22kto1k": (28.3, 224, 1024, 4e-5, 30, 5, 0.1, 1e-8),
    "swin-small-224-22kto1k": (49.6, 224, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swin-base-224-22kto1k": (87.8, 224, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swin-large-224-22kto1k": (196.5, 224, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swin-base-384": (87.9, 384, 1024, 4e-5, 30, 5, 0.5, 1e-8),
    "swin-base-384-22kto1k": (87.9, 384, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swin-large-384-22kto1k": (196.7, 384, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swinv2-tiny-w8-256": (28.3, 256, 1024, 1e-3, 300, 20, 0.2, 0.05),
    "swinv2-tiny-w16-256": (28.3, 256, 1024, 1e-3, 300, 20, 0.2, 0.05),
    "swinv2-small-w8-256": (49.7, 256, 1024, 1e-3, 300, 20, 0.3, 0.05),
    "swinv2-small-w16-256": (49.7, 256, 1024, 1e-3, 300, 20, 0.3, 0.05),
    "swinv2-base-w8-256": (87.9, 256, 1024, 1e-3, 300, 20, 0.5, 0.05),
    "swinv2-base-w16-256": (87.9, 256, 1024, 1e-3, 300, 20, 0.5, 0.05),
    "swinv2-base-w12-192-22k": (87.9, 192, 4096, 1e-3, 90, 5, 0.2, 0.1),
    "swinv2-large-w12-192-22k": (196.7, 192, 4096, 1e-3, 90, 5, 0.2, 0.1),
    "swinv2-base-w16-256-22kto1k": (87.9, 256, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swinv2-base-w24-384-22kto1k": (87.9, 384, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swinv2-large-w16-256-22kto1k": (196.7, 256, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "swinv2-large-w24-384-22kto1k": (196.7, 384, 1024, 4e-5, 30, 5, 0.2, 1e-8),
    "simmim-swin-base-100ep-finetune-192": (87.8, 192, 2048, 5e-3, 100, 20, 0.1, 0.05),
    "simmim-swin-base-100ep-finetune": (87.8, 224, 2048, 5e-3, 100, 20, 0.1, 0.05),
    "simmim-swin-base-800ep-finetune": (87.8, 224, 2048, 5e-3, 100, 20, 0.1, 0.05),
    "simmim-swin-large-800ep-finetune": (196.8, 224, 2048, 5e-3, 100, 20, 0.2, 0.05),
    "simmim-swinv2-base-800ep-finetune": (87.9, 224, 2048, 5e-3, 100, 20, 0.1, 0.05),
    "simmim-vit-base-800ep-finetune": (86.5, 224, 2048, 5e-3, 100, 20, 0.1, 0.05),
    "vit-base-16-224": (86.6, 224, 4096, 3e-3, 300, None, 0.0, 0.3),
    "vit-base-32-224": (88.2, 224, 4096, 3e-3, 300, None, 0.0, 0.3),
    "vit-large-16-224": (304.3, 224, 4096, 3e-3, 300, None, 0.0, 0.3),
    "vit-large-32-224": (306.5, 224, 4096, 3e-3, 300, None, 0.0, 0.3),
}
LAYER_DECAY = {
    "simmim-swin-base-100ep-finetune-192": 0.9,
    "simmim-swin-base-100ep-finetune": 0.9,
    "simmim-swin-base-800ep-finetune": 0.8,
    "simmim-swin-large-800ep-finetune": 0.7,
    "simmim-swinv2-base-800ep-finetune": 0.75,
    "simmim-vit-base-800ep-finetune": 0.65,
}


def test_every_recipe_is_checked() -> None:
    recipes = {name.removeprefix("recipes/") for name in shipped_configurations() if "/" in name}
    vision = {name for name in recipes if name.startswith(("swin", "simmim", "vit"))}
    assert vision == set(SIMMIM) | set(SUPERVISED)


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised_recipes_are_as_published(name: str) -> None:
    millions, px, batch, rate, epochs, warmup, drop_path, decay = SUPERVISED[name]
    config = resolve(config=f"recipes/{name}", data="imagenet")
    train, data = config.train, config.data
    labels = Labels("class", tuple(str(number) for number in range(1000)))
    encoder = config.model_config()
    with torch.device("meta"):
        model = MaskedSignalModel.create(encoder, config.make_objective(encoder, labels))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert encoder.image_size == data["image_size"] == px and encoder.drop_path_rate == drop_path
    for processes in (1, 8):
        steps = accumulation_steps(train, processes)
        assert steps * processes * train["per_device_train_batch_size"] == batch
    updates = math.ceil(epochs * IMAGES / batch)
    session = Session(config, *[None] * 5, SimpleNamespace(global_batch_size=batch), updates, None)  # type: ignore
    schedule = session.schedule
    assert train["num_train_epochs"] == epochs and train["max_steps"] == -1
    assert schedule.base == pytest.approx(rate) and train["weight_decay"] == decay
    warm = 10_000 if warmup is None else warmup * updates / epochs
    assert schedule.warmup == pytest.approx(warm, abs=1)
    assert train["layer_decay"] == LAYER_DECAY.get(name, 1.0) and not train["decay_bias_tables"]
    plain = name.startswith("vit")
    assert train["max_grad_norm"] == (1.0 if plain else 5.0)
    augmentation = [data[key] for key in ("rand_augment", "random_erase", "mixup", "cutmix")]
    assert augmentation == ([0.0] * 4 if plain else [9.0, 0.25, 0.8, 1.0])
    assert config.objective["label_smoothing"] == (0.0 if plain else 0.1)
    if not plain:
        assert schedule(0) == schedule(1) == pytest.approx(train["warmup_learning_rate"] * batch / 512)


@pytest.mark.parametrize("processes", [1, 16])
@pytest.mark.parametrize("name", SIMMIM)
def test_recipes_are_as_published(name: str, processes: int) -> None:
    """For ImageNet-1k's 1,281,167 images, whatever the number of processes."""
    layers, width, batch, rate, epochs, drop = SIMMIM[name]
    config = resolve(config=f"recipes/{name}", data="imagenet")
    model, train = config.model_config(), config.train
    assert sum(getattr(model, "depths", [getattr(model, "depth", 0)])) == layers
    assert model.num_features == width and config.objective["mask_ratio"] == 0.6
    steps = accumulation_steps(train, processes)
    assert steps * processes * train["per_device_train_batch_size"] == batch
    updates = math.ceil(epochs * IMAGES / batch)
    sampler = SimpleNamespace(global_batch_size=batch)
    session = Session(config, *[None] * 5, sampler, updates, None)  # type: ignore[list-item, arg-type]
    schedule, epoch = session.schedule, updates / epochs
    assert schedule(0) == schedule(1) == pytest.approx(train["warmup_learning_rate"] * batch / 512)
    assert schedule.base == pytest.approx(rate)
    assert schedule.warmup == pytest.approx(10 * epoch, abs=1)
    if drop is None:
        assert schedule(updates + 1) == pytest.approx(4e-5)
    else:
        first, last = round(drop * epoch) - 2, round(drop * epoch) + 3
        assert schedule(first) == pytest.approx(rate) and schedule(last) == pytest.approx(rate / 10)
    # SimMIM decays its tables (its exclusion never matches); 1-D parameters never are.
    assert train["decay_bias_tables"] and train["max_grad_norm"] == 5.0 and train["weight_decay"] == 0.05


# name: patch, blocks, width, parameters of the encoder in millions
MAE = {
    "mae-vit-base-16-800ep": (16, 12, 768, 86),
    "mae-vit-large-16-800ep": (16, 24, 1024, 303),
    "mae-vit-huge-14-800ep": (14, 32, 1280, 631),
}
# name: blocks, drop path, epochs, base rate, layer decay
MAE_FINETUNE = {
    "mae-vit-base-16-800ep-finetune": (12, 0.1, 100, 5e-4, 0.65),
    "mae-vit-large-16-800ep-finetune": (24, 0.2, 50, 1e-3, 0.75),
    "mae-vit-huge-14-800ep-finetune": (32, 0.3, 50, 1e-3, 0.75),
}


def schedule_of(config, epochs: int, batch: int):
    """The schedule over ImageNet-1k, and its updates."""
    updates = math.ceil(epochs * IMAGES / batch)
    session = Session(config, *[None] * 5, SimpleNamespace(global_batch_size=batch), updates, None)  # type: ignore
    return session.schedule, updates


@pytest.mark.parametrize("name", MAE)
def test_mae_recipes_are_as_published(name: str) -> None:
    patch, depth, width, millions = MAE[name]
    config = resolve(config=f"recipes/{name}", data="imagenet")
    encoder, train, objective = config.model_config(), config.train, config.objective
    assert (encoder.patch_size, encoder.depth, encoder.embed_dim) == (patch, depth, width)
    with torch.device("meta"):
        model = MaskedSignalModel.create(encoder, config.make_objective(encoder, None))
    assert round(sum(p.numel() for p in model.encoder.parameters()) / 1e6) == millions
    assert (objective["mask_ratio"], objective["norm_pix_loss"], objective["decoder_depth"]) == (
        0.75,
        True,
        8,
    )
    assert (objective["decoder_embed_dim"], objective["decoder_num_heads"]) == (512, 16)
    assert (train["adam_beta2"], train["weight_decay"], train["max_grad_norm"]) == (0.95, 0.05, 0.0)
    schedule, updates = schedule_of(config, 800, 4096)
    assert schedule.base == pytest.approx(1.5e-4 * 16) and schedule(0) == 0.0
    assert schedule.warmup == pytest.approx(40 * updates / 800, abs=1) and schedule(updates) == 0.0
    middle = (schedule.warmup + updates) // 2
    assert schedule(middle) == pytest.approx(schedule.base / 2, rel=1e-3)
    assert config.data["crop_scale"] == (0.2, 1.0) or list(config.data["crop_scale"]) == [0.2, 1.0]


@pytest.mark.parametrize("name", MAE_FINETUNE)
def test_mae_fine_tuning_is_as_published(name: str) -> None:
    depth, drop_path, epochs, rate, decay = MAE_FINETUNE[name]
    config = resolve(config=f"recipes/{name}", data="imagenet")
    encoder, train = config.model_config(), config.train
    assert (encoder.depth, encoder.drop_path_rate, train["layer_decay"]) == (depth, drop_path, decay)
    assert (encoder.pooling, encoder.final_norm, encoder.fixed_positions) == ("mean", "pooled", False)
    schedule, updates = schedule_of(config, epochs, 1024)
    assert train["num_train_epochs"] == epochs and schedule.base == pytest.approx(4 * rate)
    assert schedule.warmup == pytest.approx(5 * updates / epochs, abs=1) and schedule(0) == 0.0
    assert schedule(updates) == pytest.approx(1e-6)
    assert [config.data[key] for key in ("rand_augment", "random_erase", "mixup", "cutmix")] == [
        9.0,
        0.25,
        0.8,
        1.0,
    ]


def test_beit_recipe_is_as_published() -> None:
    config = resolve(config="recipes/beit-vit-base-800ep", data="imagenet")
    train, objective = config.train, config.objective
    assert int(196 * objective["mask_ratio"]) == 75 and objective["min_block"] == 16
    assert objective["vocab_size"] == 8192 and config.model["layer_scale"] == 0.1
    schedule, updates = schedule_of(config, 800, 2048)
    assert schedule.base == 1.5e-3 and schedule(0) == 1e-6 and schedule(updates) == pytest.approx(1e-5)
    assert schedule.warmup == pytest.approx(10 * updates / 800, abs=1)
    assert (train["max_grad_norm"], train["weight_decay"]) == (3.0, 0.05)


def test_data2vec_recipe_is_as_published() -> None:
    config = resolve(config="recipes/data2vec-vit-base-800ep", data="imagenet")
    encoder, train, objective = config.model_config(), config.train, config.objective
    assert int(196 * objective["mask_ratio"]) == 120 and objective["mask_shape"] == "blocks"
    assert (objective["top_k"], objective["beta"], objective["norm_mean"]) == (6, 2.0, True)
    assert objective["ema_start"] == objective["ema_end"] == 0.9998
    assert (encoder.layer_scale, encoder.drop_path_rate, encoder.attn_drop_rate) == (1e-4, 0.25, 0.05)
    with torch.device("meta"):
        model = MaskedSignalModel.create(encoder, config.make_objective(encoder, None))
    assert round(sum(p.numel() for p in model.encoder.parameters()) / 1e6) == 86
    schedule, updates = schedule_of(config, 800, 2048)
    assert schedule.base == 2e-3 and schedule(0) == 1e-6 and schedule(updates) == pytest.approx(1e-5)
    assert schedule.warmup == pytest.approx(10 * updates / 800, abs=1)
    assert (train["max_grad_norm"], train["weight_decay"]) == (3.0, 0.05)
