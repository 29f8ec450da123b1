"""Two processes give the updates of one on the same global batch; FSDP2 likewise."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.warm import launch
from unitrans.errors import ConfigError
from unitrans.training import run as running
from unitrans.training.config import RunConfig
from unitrans.training.session import keep_global_batch, make_trainer

ROOT = Path(__file__).parents[2]
# The command, and that no thread of gloo outlives it: one that does may abort the process while Python ends.
COMMAND = """
import sys
from pathlib import Path
from unitrans.cli import main

code = main()
threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
sys.exit(code or ("the group is still there" if any("gloo" in name for name in threads) else 0))
"""
PLAIN = "import sys; from unitrans.cli import main; sys.exit(main())"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SETTINGS = ("train.use_cpu=true", "train.logging_steps=1")


def torchrun(script: str, processes: int, *arguments: str) -> str:
    """Runs a script as users do, in the current folder, and returns what it prints; `launch` is faster."""
    Path("script.py").write_text(script)
    done = subprocess.run(
        [*LAUNCH, f"--nproc-per-node={processes}", "script.py", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[:6000]
    return done.stdout


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_rows(one: Path, two: Path, tolerance: float) -> None:
    first, second = rows(one), rows(two)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for row, other in zip(first, second, strict=True):
        for key in row.keys() & {"loss", "grad_norm", "eval_loss", "eval_l1", "learning_rate"}:
            assert abs(row[key] - other[key]) <= tolerance * abs(row[key]), (row["step"], key)


def assert_same_weights(one: Path, two: Path, tolerance: float, *, relative: bool) -> None:
    """To ``tolerance``, if ``relative`` of the largest entry of each tensor."""
    weights, others = (load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (one, two))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        scale = float(tensor.abs().max()) if relative else 1.0
        torch.testing.assert_close(others[name], tensor, rtol=0, atol=tolerance * scale, msg=name)


def test_the_same_command_in_two_processes(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    """In float32 the order of the sums shows in the last digits. Where a gradient is zero but for rounding, as that
    of the key bias is, Adam divides rounding by rounding: hence the absolute tolerance of the weights."""
    one = running.train(tiny(*SETTINGS, "train.per_device_train_batch_size=8"), "one")
    Path("two.yaml").write_text(tiny(*SETTINGS, "train.per_device_train_batch_size=4").to_yaml())
    printed = torchrun(COMMAND, 2, "train", "--config", "two.yaml", "--output", "two")
    two = Path("two")
    assert printed.count("The run is in two") == 1
    assert "8 samples = 4 per device x 1 accumulation x 2 processes" in printed
    assert_same_rows(one, two, 1e-5)
    assert_same_weights(one, two, 1e-5, relative=False)
    first, second = rows(one)[0], rows(two)[0]
    assert abs(first["grad_norm"] - second["grad_norm"]) <= 1e-6 * first["grad_norm"]
    assert {path.name for path in (two / "checkpoints" / "latest").iterdir()} >= {"rng-0.pt", "rng-1.pt"}


# The whole command with parameters, activations and gradients in float64: what is left is not rounding.
DOUBLE = """
import sys
import torch
from torch.utils import _pytree as pytree
from unitrans.training import run, session
from unitrans.training.config import resolve

def double(module, arguments, batch):
    widen = lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
    return arguments, pytree.tree_map_only(torch.Tensor, widen, batch)

open_session = session.open_session

def open_double(*arguments):
    opened = open_session(*arguments)
    opened.model.double().register_forward_pre_hook(double, with_kwargs=True)
    return opened

session.open_session = run.open_session = open_double
if sys.argv[1] == "--resume":
    run.resume(sys.argv[2])
else:
    run.train(resolve(config=sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_equal_one_in_float64(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    """With accumulation, and an uneven cut of the samples that are held out."""
    settings = (*SETTINGS, "train.gradient_accumulation_steps=2", "train.per_device_eval_batch_size=16")
    for processes, name in ((1, "one"), (2, "two")):
        batch = f"train.per_device_train_batch_size={8 // processes}"
        Path(f"{name}.yaml").write_text(tiny(*settings, batch).to_yaml())
        launch(DOUBLE, processes, f"{name}.yaml", name)
    one, two = Path("one"), Path("two")
    weights = load_file(one / "checkpoints" / "latest" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
    assert_same_rows(one, two, 1e-6)
    assert_same_weights(one, two, 1e-6, relative=True)


def test_a_run_goes_on_with_another_number_of_processes(
    tiny: Callable[..., RunConfig], workdir: Path
) -> None:
    """From one process to two, and, as what follows from a checkpoint of two, to one again: the numbers of a run that
    was never stopped, without dropout and drop path."""
    settings = (*SETTINGS, "train.gradient_accumulation_steps=2", "train.per_device_train_batch_size=4")
    settings += ("model.drop_path_rate=0", "train.save_steps=2", "train.save_total_limit=9")
    Path("run.yaml").write_text(tiny(*settings).to_yaml())
    launch(DOUBLE, 1, "run.yaml", "whole")
    shutil.copytree("whole", "cut", symlinks=True)
    for processes, steps in ((2, (3, 4, 6)), (1, (6,))):
        for step in steps:  # as if killed behind the checkpoint before it
            shutil.rmtree(f"cut/checkpoints/step-{step:07}")
        printed = launch(DOUBLE, processes, "--resume", "cut")
        assert (
            f"saved by {3 - processes} processes, goes on with {processes}: updates see the same" in printed
        )
        assert f"8 samples = 4 per device x {3 - processes} accumulation x {processes} process" in printed
    assert_same_rows(Path("whole"), Path("cut"), 1e-6)
    assert_same_weights(Path("whole"), Path("cut"), 1e-6, relative=True)


def test_processes_that_cannot_share_an_update_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"gradient_accumulation_steps": 3, "global_batch_size": None, "per_device_train_batch_size": 4}
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        ConfigError, match="has 6 micro-batches, which 4 processes cannot .* one of 1, 2, 3, 6$"
    ):
        keep_global_batch(train, 2, None)
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert keep_global_batch(train, 2, None)["gradient_accumulation_steps"] == 1
    assert keep_global_batch(train, 1, 6)["gradient_accumulation_steps"] == 1


def test_fsdp_needs_several_processes(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    session = running.open_session(tiny("train.fsdp=true", "train.use_cpu=true"))
    with pytest.raises(ConfigError, match=r"train\.fsdp shards over several processes and there is one"):
        make_trainer(session, workdir)


def test_a_sharded_run_equals_a_replicated_one(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    """The whole command with train.fsdp on the CPU, and what it goes on with after half of its updates."""
    settings = ("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=2")
    settings += ("train.save_steps=2", "train.save_total_limit=9", "train.adam_epsilon=1e-4")
    for name, fsdp in (("replicated", "false"), ("sharded", "true")):
        Path(f"{name}.yaml").write_text(tiny(*SETTINGS, *settings, f"train.fsdp={fsdp}").to_yaml())
        launch(PLAIN, 2, "train", "--config", f"{name}.yaml", "--output", name)
    assert_same_rows(Path("replicated"), Path("sharded"), 1e-5)
    assert_same_weights(Path("replicated"), Path("sharded"), 1e-5, relative=False)
    shutil.copytree("sharded", "cut", symlinks=True)
    for step in (3, 4, 6):  # as if killed behind the checkpoint of update 2
        shutil.rmtree(f"cut/checkpoints/step-{step:07}")
    launch(PLAIN, 2, "train", "--resume", "cut")
    assert_same_rows(Path("sharded"), Path("cut"), 0)
    assert_same_weights(Path("sharded"), Path("cut"), 0, relative=False)


# Four updates with DDP and with fully_shard on the same batches; after two the sharded one is saved and taken up anew.
SHARDED = """
import copy, os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from unitrans.nn import Block
from unitrans.training.config import resolve
from unitrans.training.data import Collate
from unitrans.training.optim import make_adamw, parameter_groups
from unitrans.training.session import open_session
from unitrans.training.saving import gather_state, scatter_moments, scatter_weights

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
mesh = dist.init_device_mesh("cpu", (world,))
session = open_session(resolve(config=sys.argv[1]))
data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
start = copy.deepcopy(session.model.double())

def shard(model):
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model

def optimizer_of(model):
    return make_adamw(parameter_groups(model, 0.05), lr=3e-3, betas=(0.9, 0.999), eps=1e-8)

def update(number, call, model, optimizer):
    (keys,) = session.sampler.micro_batches(number, rank)
    batch = collate([data[key] for key in keys])
    output = call(patches=batch["patches"].double(), plans=batch["plans"], mask=batch["mask"])
    output["loss_sum"].backward()
    targets = output["num_targets"].clone()
    dist.all_reduce(targets)
    for parameter in model.parameters():
        parameter.grad.mul_(world / targets)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    optimizer.zero_grad()

plain = copy.deepcopy(start)
ddp, plain_optimizer = DistributedDataParallel(plain), optimizer_of(plain)
sharded = shard(copy.deepcopy(start))
sharded_optimizer = optimizer_of(sharded)
for number in range(4):
    if number == 2:
        state = [gather_state(sharded, sharded_optimizer)]
        dist.broadcast_object_list(state)  # as if all read it from a checkpoint
        sharded = shard(copy.deepcopy(start))
        sharded_optimizer = optimizer_of(sharded)
        scatter_weights(sharded, state[0][0])
        scatter_moments(sharded, sharded_optimizer, state[0][1])
    update(number, ddp, plain, plain_optimizer)
    update(number, sharded, sharded, sharded_optimizer)
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
weights, _ = gather_state(sharded, sharded_optimizer)
if rank == 0:
    expected = plain.state_dict()
    assert weights.keys() == expected.keys()
    worst = max(float((weights[n] - e).abs().max() / e.abs().max()) for n, e in expected.items())
    moved = max(float((start.state_dict()[n] - e).abs().max()) for n, e in expected.items())
    print("worst", worst, "moved", moved, flush=True)
dist.destroy_process_group()
os._exit(0)  # the models above hold the group: see end_group
"""


@pytest.mark.slow
def test_a_sharded_model_takes_the_steps_of_ddp(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    Path("run.yaml").write_text(tiny("train.use_cpu=true", "train.per_device_train_batch_size=4").to_yaml())
    words = launch(SHARDED, 2, "run.yaml").split()
    worst, moved = float(words[words.index("worst") + 1]), float(words[words.index("moved") + 1])
    assert moved > 1e-3 and worst <= 1e-6


# The whole command; every process notes the ids of its micro-batches in the order in which they are computed.
STREAMED = """
import sys
from unitrans.cli import main
from unitrans.training.loop import Trainer

step, output = Trainer.forward_backward, sys.argv[1]

def noted(self, batch):
    with open(f"{output}-{self.rank}.txt", "a") as file:
        file.write(" ".join([str(self.state.global_step), *batch["sample_ids"]]) + "\\n")
    return step(self, batch)

Trainer.forward_backward = noted
sys.exit(main(["train", *sys.argv[2:]]))
"""


def photos(folder: Path) -> None:
    """Three parquet files with 45 images."""
    folder.mkdir()
    for shard in range(3):
        values = np.random.default_rng(shard).integers(0, 255, (15, 16, 16, 3), np.uint8)
        rows = {"image": [Image.fromarray(value) for value in values]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"train-{shard}.parquet")


def seen(name: str, rank: int) -> list[tuple[int, list[str]]]:
    """(update, ids) of every micro-batch of a process."""
    lines = [line.split() for line in Path(f"{name}-{rank}.txt").read_text().splitlines()]
    return [(int(update), ids) for update, *ids in lines]


@pytest.mark.slow
def test_a_stream_in_two_processes(tiny: Callable[..., RunConfig], workdir: Path) -> None:
    """Each sees its part of every global batch, which is that of one process; a killed run goes on exactly."""
    photos(workdir / "photos")
    settings = ["data.path=photos", "data.streaming=true", "data.shuffle_buffer=10", "data.validation=0.2",
                "data.channels=3", "data.image_size=16", "model.window_size=2", "objective.mask_patch_size=4",
                "model.patch_size=2", "train.max_steps=8", "train.save_steps=2", "train.eval_steps=4",
                "train.gradient_accumulation_steps=2", "train.save_total_limit=9"]  # fmt: skip
    for processes, name in ((1, "one"), (2, "two")):
        batch = f"train.per_device_train_batch_size={8 // processes}"
        Path(f"{name}.yaml").write_text(tiny(*SETTINGS, *settings, batch).to_yaml())
        launch(STREAMED, processes, name, "--config", f"{name}.yaml", "--output", name)
    assert_same_rows(Path("one"), Path("two"), 1e-5)
    whole, two = seen("one", 0), [seen("two", rank) for rank in (0, 1)]
    assert (
        len({name for _, ids in whole for name in ids}) < 45 < sum(len(ids) for _, ids in whole)
    )  # held out; epochs
    for update in range(8):
        alone = [name for at, ids in whole if at == update for name in ids]
        parts = [[ids for at, ids in rows if at == update] for rows in two]
        assert [len(ids) for ids in parts[0] + parts[1]] == [4, 4, 4, 4]
        assert [name for pair in zip(*parts, strict=True) for ids in pair for name in ids] == alone

    shutil.copytree("two", "cut", symlinks=True)
    for step in (6, 8):  # as if killed behind the checkpoint of update 4
        shutil.rmtree(f"cut/checkpoints/step-{step:07}")
    launch(STREAMED, 2, "cut", "--resume", "cut")
    for rank, rows in enumerate(two):
        assert seen("cut", rank) == [row for row in rows if row[0] >= 4]
    assert_same_rows(Path("two"), Path("cut"), 0)
    assert_same_weights(Path("two"), Path("cut"), 0, relative=False)


def test_several_domains_in_two_processes(workdir: Path) -> None:
    """Of four samples one is a graph, so that one of the processes has none."""
    Path("corpus.txt").write_text("\n".join(f"the old cat saw {n} dogs" for n in range(40)))
    Path("molecules.csv").write_text("\n".join(["smiles", *("C" * n + "O" for n in range(1, 21))]))
    settings = ["data.text.document=line", "data.text.vocab_size=300", "data.mixing={text: 3, graph: 1}"]
    settings += ["model.embed_dim=16", "model.depth=1", "model.num_heads=2", "train.max_steps=3"]
    # The epsilon keeps Adam from dividing rounding by rounding.
    settings += ["train.eval_steps=3", "train.save_steps=3", "train.adam_epsilon=1e-4", *SETTINGS]
    files = ["--data.text", "corpus.txt", "--data.graph", "molecules.csv"]
    for name, processes, size in (("one", 1, 4), ("two", 2, 2)):
        batch = f"train.per_device_train_batch_size={size}"
        command = ["train", "--domain", "text,graph", *files, *settings, batch, "--output", name]
        launch(COMMAND, processes, *command)
    assert_same_rows(Path("one"), Path("two"), 1e-5)
    assert_same_weights(Path("one"), Path("two"), 1e-5, relative=False)
