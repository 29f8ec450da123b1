"""One module says what outputs mean; objectives say what figures are."""

import numpy as np
import pytest
import torch

from unitrans.objectives import Objective, get_objective
from unitrans.objectives.answers import answers, choose, in_units, joined, says_yes, standardised
from unitrans.objectives.base import Labels
from unitrans.objectives.registry import OBJECTIVES

CLASSES = Labels("class", ("a", "b", "c"))
TARGETS = Labels("multi", ("x", "y"))
VALUES = Labels("value", ("u", "v"), mean=(10.0, -1.0), std=(2.0, 0.5))


def test_classes() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1e4, -1e4, 0.0]])
    found = answers(CLASSES, logits)
    np.testing.assert_allclose(found, torch.softmax(logits.double(), 1).numpy())
    best = choose(CLASSES, found[0])
    assert (best.number, best.name) == (1, "b") and best.probability == pytest.approx(0.6652, abs=1e-4)


def test_yes_and_no() -> None:
    found = answers(TARGETS, np.array([[800.0, -800.0], [0.5, 0.0]]))
    np.testing.assert_allclose(found[0], [1.0, 0.0])  # no overflow
    assert says_yes(TARGETS, found[1]) == [("x", pytest.approx(0.6225, abs=1e-4))]


def test_values_in_the_units_of_the_data() -> None:
    np.testing.assert_allclose(answers(VALUES, [[1.0, 2.0]]), [[12.0, 0.0]])
    np.testing.assert_allclose(standardised(VALUES, in_units(VALUES, [0.3, -0.7])), [0.3, -0.7])


def test_members_are_averaged_as_probabilities() -> None:
    outputs = np.array([[[2.0, 0.0, 1.0]], [[-1.0, 0.5, 0.0]]])
    np.testing.assert_allclose(answers(CLASSES, joined(CLASSES, outputs)), answers(CLASSES, outputs).mean(0))
    np.testing.assert_allclose(
        answers(TARGETS, joined(TARGETS, outputs[..., :2])), answers(TARGETS, outputs[..., :2]).mean(0)
    )
    np.testing.assert_allclose(joined(VALUES, outputs[..., :2]), outputs[..., :2].mean(0))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_says_what_its_figures_are(name: str) -> None:
    objective = get_objective(name)
    loss = objective.measure("loss", {"loss": "huber"})
    assert loss.smaller_is_better and loss.unit != "loss"
    for figure in objective.metric_names:
        assert objective.measure(figure).unit != figure, figure
    assert objective.measure(objective.headline).smaller_is_better != objective.greater_is_better or (
        objective.headline == "loss"
    )


def test_figures_of_several_domains_are_those_of_their_objectives() -> None:
    joint = get_objective("msm")
    assert joint.measure("vision_l1").smaller_is_better and "hidden pixel" in joint.measure("vision_l1").unit
    assert joint.measure("text_loss").unit == "nats a hidden token"
    assert joint.measure("text_loss", {"text": {"name": "clm"}}).unit == "nats a token"


def test_the_former_name_of_what_is_predicted() -> None:
    with pytest.warns(DeprecationWarning, match="Older.shows is now called predicts"):
        older = type("Older", (Objective,), {"shows": "pixels"})
    assert older.predicts == "pixels"
