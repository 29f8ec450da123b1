"""Two processes give the updates of one on the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from unitrans.train import run as running
from unitrans.train.config import RunConfig

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from unitrans.cli import main; sys.exit(main())"


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    one = running.train(tiny("train.per_device_train_batch_size=8"), "one")
    (workdir / "two.yaml").write_text(tiny("train.per_device_train_batch_size=4").to_yaml())
    (workdir / "command.py").write_text(COMMAND)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "command.py", "train", "--config", "two.yaml", "--output", "two", "train.use_cpu=true"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = Path("two")
    assert done.stdout.count("The run is in two") == 1
    assert "8 samples = 4 per device x 1 accumulation x 2 processes" in done.stdout
    first, second = rows(one), rows(two)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for row, other in zip(first, second, strict=True):
        for key in row.keys() & {"loss", "grad_norm", "eval_loss", "eval_l1", "learning_rate"}:
            assert abs(row[key] - other[key]) <= 1e-5 * abs(row[key]), (row["step"], key)
    weights = [load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5, msg=name)
    assert {path.name for path in (two / "checkpoints" / "latest").iterdir()} >= {"rng-0.pt", "rng-1.pt"}
