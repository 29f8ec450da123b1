"""Learning rates against the formulas of the official code, written here a second time."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unitrans.training.schedule import Schedule, UpdateScheduler

TRAJECTORY = Path(__file__).parents[3] / "shared" / "golden" / "20_traj_simmim_swin"


def test_cosine_as_in_simmim() -> None:
    schedule = Schedule("cosine", 2e-3, total=20, minimum=2e-5, warmup=3, warmup_start=1e-5, lag=1)
    for update in range(25):
        t = max(update - 1, 0)
        if t < 3:
            expected = 1e-5 + t * (2e-3 - 1e-5) / 3
        elif t < 20:
            expected = 2e-5 + 0.5 * (2e-3 - 2e-5) * (1 + math.cos(math.pi * t / 20))
        else:
            expected = 2e-5
        assert schedule(update) == pytest.approx(expected, rel=1e-14)


def test_cosine_as_in_swin() -> None:
    """warmup_prefix: the cosine has the updates after the warm-up to itself."""
    schedule = Schedule("cosine", 1e-3, total=110, minimum=1e-5, warmup=10, warmup_start=0.0, prefix=True)
    assert schedule(10) == pytest.approx(1e-3)
    assert schedule(60) == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5))
    assert schedule(110) == 1e-5


def test_linear_constant_and_steps() -> None:
    linear = Schedule("linear", 1.0, total=10, minimum=0.2)
    assert [linear(0), linear(5), linear(10)] == pytest.approx([1.0, 0.6, 0.2])
    constant = Schedule("constant_with_warmup", 1.0, total=10, warmup=4)
    assert [constant(u) for u in (0, 1, 4, 9)] == pytest.approx([0.0, 0.25, 1.0, 1.0])
    steps = Schedule("multistep", 1.0, total=10, warmup=1, milestones=(3, 6), gamma=0.1)
    assert [steps(u) for u in (1, 2, 3, 5, 6, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_scheduler_sets_the_rate_of_each_update_and_goes_on() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    schedule = Schedule("cosine", 1.0, total=8, warmup=2)

    def rates(scheduler: UpdateScheduler, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
        seen = []
        for _ in range(count):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    optimizer = torch.optim.SGD([{"params": [parameter], "lr_scale": 0.5}], lr=9.0)
    scheduler = UpdateScheduler(optimizer, schedule)
    assert rates(scheduler, optimizer, 5) == [0.5 * schedule(u) for u in range(5)]
    saved = scheduler.state_dict()
    optimizer = torch.optim.SGD([{"params": [parameter], "lr_scale": 0.5}], lr=9.0)
    scheduler = UpdateScheduler(optimizer, schedule)
    scheduler.load_state_dict(saved)
    assert rates(scheduler, optimizer, 3) == [0.5 * schedule(u) for u in range(5, 8)]


def test_official_rates_to_the_last_bit() -> None:
    if not TRAJECTORY.is_dir():
        pytest.skip("golden case 20_traj_simmim_swin is not there (optional folder ../shared/golden)")
    recipe = json.loads((TRAJECTORY / "meta.json").read_text())["training"]
    schedule = Schedule(
        "cosine",
        recipe["base_lr"],
        total=recipe["total_steps"],
        minimum=recipe["min_lr"],
        warmup=recipe["warmup_steps"],
        warmup_start=recipe["warmup_lr_init"],
        lag=1,
    )
    official = load_file(TRAJECTORY / "io.safetensors")["out.lr"].tolist()
    assert [schedule(update) for update in range(len(official))] == official
