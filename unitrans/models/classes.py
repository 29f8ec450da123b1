"""Classifiers of other classes than the weights are for."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from unitrans.models._weights import layout_for

_CLASSIFIER = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


def with_classes(
    model: Any, weights: dict[str, Tensor], layout: str | None, class_map: Sequence[int] | None
) -> tuple[dict[str, Tensor], set[str]]:
    """The weights with the classifier that this model has, and its parameters that start afresh instead.

    Args:
        model: ours; its classifier is `head` (and DeiT's `head_dist`), which is none where there are no classes.
        weights: by the names of the layout; None: by ours.
        class_map: for every class of the model, its number in the weights.
    """
    own = dict(model.named_parameters())
    table, fresh = None if layout is None else layout_for(model, layout), set()
    for name in list(weights):
        target = name if table is None else table.ours(name).name
        if target not in _CLASSIFIER:
            continue
        if target not in own:
            if isinstance(getattr(model, "head", None), nn.Identity):  # num_labels is 0
                del weights[name]
            continue
        if class_map is not None:
            weights[name] = weights[name][list(class_map)]
        if weights[name].shape != own[target].shape:
            del weights[name]
            fresh.add(target)
    return weights, fresh
