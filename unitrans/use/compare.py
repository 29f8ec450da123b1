"""What a model says to a random input, before it was written and after it was read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from unitrans.errors import ConfigError
from unitrans.models._encoder import encoder_of
from unitrans.models.images import ImageEncoder
from unitrans.models.text import TextEncoder
from unitrans.nn import patchify
from unitrans.objectives import MaskedSignalModel

TOLERANCE = 1e-4  # of the largest number; rounding alone stays far below it
#: What the models of transformers and ours call what they say; the first that is there counts.
_SAID = ("logits", "prediction_logits", "reconstruction", "last_hidden_state")
Input = Mapping[str, Any]


def random_input(model: Any) -> dict[str, Any]:
    """What a model of ours, and that of another code base, is asked: always the same for the same sizes.

    Returns:
        Of images pixel_values [2, C, H, W] and, for what predicts hidden patches, bool_masked_pos [2, h * w]; of texts
        input_ids and attention_mask [2, n], the second text half as long; of graphs nodes [T, F] and plans.
    """
    encoder, draw = encoder_of(model), torch.Generator().manual_seed(0)
    config = encoder.config
    if isinstance(encoder, ImageEncoder):
        height, width = (side * config.patch_size for side in config.grid)
        given: dict[str, Any] = {
            "pixel_values": torch.randn(2, config.in_chans, height, width, generator=draw)
        }
        if isinstance(model, MaskedSignalModel) and model.objective.predicts in ("pixels", "patch_tokens"):
            given["bool_masked_pos"] = _hidden_patches(model)
        return given
    if isinstance(encoder, TextEncoder):
        length = min(int(config.max_position_embeddings), 12)
        mask = torch.ones(2, length, dtype=torch.int64)
        mask[1, (length + 1) // 2 :] = 0
        ids = torch.randint(0, config.vocab_size, (2, length), generator=draw)
        return {"input_ids": torch.where(mask.bool(), ids, config.pad_token_id or 0), "attention_mask": mask}
    if not hasattr(config, "num_spatial"):
        raise ConfigError(f"a {type(encoder).__name__} cannot be asked about a random input")
    features = config.num_atoms // config.feature_offset or 1, config.num_edges // config.feature_offset or 1
    ring = torch.tensor([[0, 1, 1, 2, 2, 3, 4, 5], [1, 0, 2, 1, 3, 2, 5, 4]])
    most = max(1, min(config.feature_offset, config.num_atoms, config.num_edges) // 2)
    nodes = torch.randint(0, most, (6, features[0]), generator=draw)
    edges = torch.randint(0, most, (8, features[1]), generator=draw)
    return {"nodes": nodes, "plans": config.plans([4, 2], [6, 2], (ring % 4).numpy(), edges.numpy())}


def _hidden_patches(model: MaskedSignalModel) -> Tensor:
    """As the objective hides patches of two images, bool [2, h * w]."""
    import numpy as np

    config = model.encoder.config
    image = torch.zeros(config.in_chans, *(side * config.patch_size for side in config.grid))
    rng = np.random.default_rng(0)
    masks = [model.objective.corrupt({"image": image}, rng)["mask"] for _ in range(2)]
    return torch.stack([torch.as_tensor(mask).flatten() for mask in masks])


@torch.no_grad()
def said(model: Any, given: Input) -> Tensor:
    """What a model of ours says, without padding: a row for a sample, a patch or a token."""
    if isinstance(model, MaskedSignalModel):
        return _signal(model, given)
    if "plans" in given:
        output = model(given["nodes"], given["plans"])
    else:
        output = model(**{name: value for name, value in given.items() if name != "bool_masked_pos"})
    return rows_of(output, given)


@torch.no_grad()
def rows_of(output: Any, given: Input) -> Tensor:
    """The same of what a model returns, also one of transformers."""
    if isinstance(output, list):  # maps of a backbone
        return torch.cat([one.flatten() for one in output])[:, None]
    found: Tensor = next(getattr(output, name) for name in _SAID if getattr(output, name, None) is not None)
    mask = given.get("attention_mask")
    if mask is not None and found.shape[:2] == mask.shape:
        return found[mask.bool()]
    if found.dim() == 4:  # images
        height = found.shape[2]
        patch = height // round((given["bool_masked_pos"].shape[1] * height / found.shape[3]) ** 0.5)
        return patchify(found, patch).flatten(0, 1)
    return found.flatten(0, -2)


def _signal(model: Any, given: Input) -> Tensor:
    encoder, predicts = model.encoder, model.objective.predicts
    if isinstance(encoder, ImageEncoder):
        patches, plans = encoder.pack(given["pixel_values"])
        if "bool_masked_pos" in given:
            return _hidden(model, patches, plans, given["bool_masked_pos"])
        inputs: Input = {"patches": patches, "plans": plans}
    elif isinstance(encoder, TextEncoder):
        seen = given["attention_mask"].bool()
        inputs = {"input_ids": given["input_ids"][seen], "plans": encoder.config.plans(seen.sum(1).tolist())}
    else:
        inputs = given
    if predicts in ("classes", "answers", "values"):
        return cast(Tensor, model.head.predict(encoder, inputs))
    rows = encoder.features(**inputs)
    if predicts == "word_classes":
        return cast(Tensor, model.head.linear(rows))
    return cast(Tensor, model.head.scores(rows, encoder.embeddings.word_embeddings.weight))


def _hidden(model: Any, patches: Tensor, plans: Any, hidden: Tensor) -> Tensor:
    """What is predicted of images with hidden patches, bool [2, h * w]."""
    encoder, head, objective = model.encoder, model.head, model.objective
    mask, grid = hidden.flatten(), encoder.config.grid
    if objective.name == "beit":
        x = encoder.embed_tokens({"patches": patches}, plans, mask, head.mask_token)
        return cast(Tensor, head.classifier(encoder.token_rows(encoder.encode(x, plans), plans)))
    if objective.name == "mae" or objective.only_visible:
        plans = encoder.config.plans([grid] * len(hidden), visible=list(~hidden.view(-1, *grid)))
    if objective.name == "mae":
        rows = encoder.encode(head.enter(encoder, patches, plans), plans)
        return cast(Tensor, head.decoder(rows, plans.whole))
    rows = encoder.encode(head.enter(encoder, patches, plans, mask), plans)
    return cast(Tensor, head.predict(encoder, rows, plans))


def check_same(
    what: str, model: Any, given: Input, again: Callable[[], Any], reasons: Iterable[str] = ()
) -> None:
    """Compares what a model says with what was read again says.

    Args:
        what: how the error begins.
        model: ours.
        given: see `random_input`.
        again: reads the other one: ours, or one of transformers.
        reasons: where the two differ in what they are made for.

    Raises:
        ConfigError: they say something else.
    """
    other = again()
    far, size = _distance(said(model, given), _other(other, given))
    if far > TOLERANCE * size:  # in deep models rounding may grow: it is smaller here
        far, size = _distance(said(model.double(), _doubled(given)), _other(other.double(), _doubled(given)))
        model.float()
    if far > TOLERANCE * size:
        why = ", ".join(reasons)
        raise ConfigError(
            f"{what}: what was written gives other outputs than the model, which differ by {far:.2g} of {size:.2g} on "
            f"random input, so nothing is kept" + (f": {why}" if why else "")
        )


def _distance(want: Tensor, got: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest number; infinite for outputs of other sizes."""
    size = max(float(want.abs().max()), 1e-12)
    far = float((want - got).abs().max()) if want.shape == got.shape else float("inf")
    return (far if far == far else float("inf")), size


def _other(model: Any, given: Input) -> Tensor:
    if type(model).__module__.startswith("unitrans."):
        return said(model, given)
    with torch.no_grad():
        return rows_of(_asked(model, given), given)


def _asked(model: Any, given: Input) -> Any:
    """What a model of transformers returns."""
    if type(model).__name__ == "ViTMAEForPreTraining":  # it keeps the patches with the smallest noise
        return model(given["pixel_values"], noise=given["bool_masked_pos"].to(given["pixel_values"].dtype))
    return model(**given)


def _doubled(given: Input) -> Input:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }
