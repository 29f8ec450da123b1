"""Signals at exact places: in an evaluation, in the one that is made up for, and in both."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from unitrans.cli import main

SETTINGS = [
    *("model.name=swin", "model.embed_dim=8", "model.depths=[1, 1]", "model.num_heads=[1, 2]"),
    *(
        "train.max_steps=24",
        "train.per_device_train_batch_size=8",
        "train.eval_steps=8",
        "train.save_steps=24",
    ),
    *("train.logging_steps=4", "train.use_cpu=true"),
]


def run(arguments: list[str], stop_behind: int | None = None, signum: int = signal.SIGTERM) -> int:
    """Exit code of a command in a fork, which gets the signal in its first evaluation behind so many of its updates."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        updates, sent = 0, False

        def count(*_: Any) -> None:
            nonlocal updates
            updates += 1

        def judge(module: torch.nn.Module, _: Any) -> None:
            nonlocal sent
            if updates == stop_behind and not module.training and not sent:
                sent = True
                os.kill(os.getpid(), signum)

        register_optimizer_step_post_hook(count)
        register_module_forward_pre_hook(judge)
        code = main(arguments)
    finally:
        os._exit(code)


def state(folder: str) -> dict[str, Any]:
    """What must not depend on stops: the log without seconds, the summary, where the links point, weights, moments."""
    path = Path(folder)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("eval_seconds", "tokens_per_second")} for row in rows]
    checkpoints = path / "checkpoints"
    weights = load_file(checkpoints / "latest" / "model.safetensors")
    moments = torch.load(checkpoints / "latest" / "optimizer.pt", weights_only=True)["state"]
    return {
        "log": rows,
        "summary": json.loads((path / "summary.json").read_text()),
        "links": {name: os.readlink(checkpoints / name) for name in ("best", "latest")},
        "weights": {name: x.tolist() for name, x in weights.items()},
        "moments": {
            f"{n}.{key}": torch.as_tensor(x).tolist() for n, s in moments.items() for key, x in s.items()
        },
        "generators": {
            name: str(x)
            for name, x in torch.load(checkpoints / "latest" / "rng-0.pt", weights_only=True).items()
        },
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert run(["train", "--output", str(folder), *SETTINGS]) == 0
    return state(str(folder))


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (24, []),  # the last evaluation
        (8, []),
        (8, [(0, signal.SIGTERM), (0, signal.SIGTERM), (8, signal.SIGTERM)]),
        (8, [(0, signal.SIGKILL)]),
        (16, [(0, signal.SIGTERM), (8, signal.SIGTERM), (0, signal.SIGKILL), (0, signal.SIGTERM)]),
    ],
    ids=["last", "first", "four times", "then killed", "mixed"],
)
def test_stops_leave_no_trace(
    first: int, others: list[tuple[int, int]], straight: dict[str, Any], workdir: Path
) -> None:
    assert run(["train", "--output", "run", *SETTINGS], first) == 143
    for behind, signum in others:
        assert run(["train", "--resume", "run"], behind, signum) in (143, -9)
    assert run(["train", "--resume", "run"]) == 0
    found = state("run")
    for name, value in straight.items():
        assert found[name] == value, name


def test_a_kill_behind_the_row_of_a_made_up_evaluation(straight: dict[str, Any], workdir: Path) -> None:
    """The row is in the log, the checkpoint still says that the evaluation is to be made."""
    assert run(["train", "--output", "run", *SETTINGS], 8) == 143
    shutil.copytree("run", "before", symlinks=True)
    assert run(["train", "--resume", "run"]) == 0
    rows = Path("run/metrics.jsonl").read_text().splitlines(keepends=True)
    evaluated = next(n for n, row in enumerate(rows) if "eval_loss" in row)
    Path("before/metrics.jsonl").write_text("".join(rows[: evaluated + 1]))
    assert run(["train", "--resume", "before"]) == 0
    found = state("before")
    for name, value in straight.items():
        assert found[name] == value, name
