"""A domain, a model and an objective from outside of the package: what docs/extending.md promises."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unitrans.domains import base as domains
from unitrans.domains import get_domain, register_domain
from unitrans.models.registry import families, get_family, unregister_model
from unitrans.objectives import registry
from unitrans.training import run as running
from unitrans.training.config import resolve

SETTINGS = (
    "model.name=series",
    "train.max_steps=160",
    "train.per_device_train_batch_size=32",
    "train.learning_rate=3e-3",
    "train.eval_steps=80",
    "train.save_steps=80",
    "train.use_cpu=true",
)


def _forget() -> None:
    if "series" in families():
        unregister_model("series")
    for table in (domains._DOMAINS, registry.OBJECTIVES):
        for name in ("series", "hidden_pieces"):
            table.pop(name, None)


@pytest.fixture
def _series() -> Iterator[None]:
    _forget()
    runpy.run_path(str(Path(__file__).with_name("toy_domain.py")))
    yield
    _forget()


@pytest.mark.usefixtures("_series")
def test_a_domain_from_outside_the_package(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    phase, rate = rng.uniform(0, 6, (400, 1)), rng.uniform(0.2, 0.6, (400, 1))
    np.save("waves.npy", np.sin(phase + rate * np.arange(48)))
    config = resolve(domain="series", data="waves.npy", settings=SETTINGS)
    summary = json.loads((running.train(config, "run") / "summary.json").read_text())
    assert (
        summary["error"] < 0.5 * summary["of_mean"]
    )  # waves go on: what is hidden follows from what is seen
    assert "held-out samples" in capsys.readouterr().out
    running.resume("run")


@pytest.mark.usefixtures("_series")
def test_series_do_not_see_each_other() -> None:
    family = get_family("series")
    config = family.config_class()
    model = family.model_class(config).eval()
    values = torch.randn(12, config.piece)
    together = model(values, config.plans([7, 5]))
    torch.testing.assert_close(together[:7], model(values[:7], config.plans([7])), rtol=1e-5, atol=1e-6)


def test_names_of_domains_are_unique() -> None:
    taken = type("Other", (type(get_domain("text")),), {})
    with pytest.raises(ValueError, match="the name 'text' is taken"):
        register_domain(taken)
    with pytest.raises(ValueError, match="expected the attribute 'name'"):
        register_domain(type("Nameless", (), {}))
