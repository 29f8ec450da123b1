"""The names of the objectives."""

import difflib

from unitrans.objectives.base import Objective
from unitrans.objectives.mim import MaskedImageModeling

OBJECTIVES: dict[str, type[Objective]] = {MaskedImageModeling.name: MaskedImageModeling}


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
