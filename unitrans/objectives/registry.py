"""The names of the objectives."""

import difflib
from typing import Any

from unitrans.objectives.base import Labels, Objective
from unitrans.objectives.beit import DiscreteTargets
from unitrans.objectives.clm import CausalLanguageModeling
from unitrans.objectives.data2vec import TeacherFeatures
from unitrans.objectives.mae import MaskedAutoencoder
from unitrans.objectives.mgm import MaskedGraphModeling
from unitrans.objectives.mim import MaskedImageModeling
from unitrans.objectives.mlm import MaskedLanguageModeling
from unitrans.objectives.msm import MaskedSignalModeling
from unitrans.objectives.supervised import Classification, Regression
from unitrans.objectives.tokens import TokenClassification

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        MaskedImageModeling,
        MaskedAutoencoder,
        DiscreteTargets,
        TeacherFeatures,
        MaskedLanguageModeling,
        MaskedSignalModeling,
        CausalLanguageModeling,
        MaskedGraphModeling,
        Classification,
        Regression,
        TokenClassification,
    )
}


def register_objective(objective: type[Objective]) -> type[Objective]:
    """Makes an objective known by its name, to configurations and to checkpoints; usable as a decorator.

    It must be registered before a run that names it begins, and wherever its checkpoints are read.

    Raises:
        ValueError: the name is taken, or something that an objective needs is missing.
    """
    for attribute in ("name", "domains", "Options"):
        if not hasattr(objective, attribute):
            raise ValueError(f"objective {objective.__name__}: expected the attribute {attribute!r}")
    if OBJECTIVES.get(objective.name, objective) is not objective:
        raise ValueError(f"objective: the name {objective.name!r} is taken, choose another one")
    OBJECTIVES[objective.name] = objective
    return objective


def get_objective(name: str) -> type[Objective]:
    """The objective of that name.

    Raises:
        ValueError: no such objective; the message names the nearest one.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    known = ", ".join(repr(known) for known in sorted(OBJECTIVES))
    nearest = difflib.get_close_matches(name, OBJECTIVES, 1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"objective: expected one of {known}, got {name!r}{hint}")


def make_objective(
    name: str, encoder_config: Any, options: dict[str, Any], labels: Labels | None = None
) -> Objective:
    """The objective of that name for an encoder, its options and the labels of the data.

    Raises:
        ValueError: no such objective, options that do not fit, or labels of another kind.
    """
    cls = get_objective(name)
    if cls.label_kinds and (labels is None or labels.kind not in cls.label_kinds):
        found = "none" if labels is None else f"{labels.kind} labels"
        raise ValueError(
            f"objective {name}: expected labels of kind {' or '.join(cls.label_kinds)}, got {found}"
        )
    return cls(encoder_config, labels if cls.label_kinds else None, **options)
