"""A text file that is larger than memory is allowed to be. Minutes, and 3 GB of disk: not part of the default run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GIGABYTES = 3
CODE = """
import json, resource, sys
from unitrans.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.mark.learning
@pytest.mark.parametrize("boundary", ["line", "file"])
def test_three_gigabytes_train_in_bounded_memory(tmp_path: Path, boundary: str) -> None:
    """Lines of text, and (file) the same read as one document of three gigabytes."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(5000)])
    block = "\n".join(" ".join(rng.choice(words, 12)) for _ in range(100_000)) + "\n"
    with (tmp_path / "big.txt").open("w") as file:
        while file.tell() < GIGABYTES << 30:
            file.write(block)
    settings = [
        "data.streaming=true",
        f"data.document={boundary}",
        "data.validation=none",
        "data.vocab_size=2000",
    ]
    if boundary == "line":
        settings[2] = "data.validation=0.01"
    settings += ["model.embed_dim=32", "model.depth=1", "model.num_heads=2", "train.max_steps=20"]
    settings += [
        "data.stream_validation_samples=50",
        "train.per_device_train_batch_size=16",
        "train.eval_steps=10",
    ]
    command = ["train", "--domain", "text", "--objective", "mlm", "--data", str(tmp_path / "big.txt")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command, "--output", str(tmp_path / "run"), *settings],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["code"] == 0, done.stderr[-2000:]
    print(f"{boundary}: peak memory {result['peak'] / 1e9:.2f} GB")
    assert result["peak"] < 1.5e9, f"{result['peak'] / 1e9:.2f} GB"
