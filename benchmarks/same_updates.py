"""Do two checkouts train the same? Every objective with every switch of the loop, bit for bit.

`python -m benchmarks.same_updates OLD NEW` trains twelve updates in each cell with both checkouts (folders with a
`.venv`, or what `--python` names) and compares weights, optimizer, generators and the rows of the log without their
seconds. Then a run that was stopped in OLD goes on with NEW and must end where OLD ends without a stop.
`--configurations` compares what `--print-config` says of every shipped configuration, byte for byte.

Only commands and run folders are used. Runs are forked from one warm process per checkout; signals come at exact places
through torch's global hooks, which any loop passes.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

UPDATES = 12
STOP = 5  # the update after which a run is stopped
SECONDS = ("tokens_per_second", "eval_seconds")  # of a row of the log
COMMON = (
    f"train.max_steps={UPDATES}",
    "train.eval_steps=4",
    "train.save_steps=4",
    "train.logging_steps=2",
    "train.per_device_train_batch_size=4",
    "train.per_device_eval_batch_size=32",
    "train.use_cpu=true",
)
TOWER = ("model.embed_dim=16", "model.depth=2", "model.num_heads=2")
SWIN = ("model.name=swin", "model.embed_dim=8", "model.depths=[2, 2]", "model.num_heads=[1, 2]")
JOINT = ("model.embed_dim=16", "model.depth=2", "model.num_heads=2")

#: name -> domain, objective, settings, name of the data ("" is the default of the domain).
TASKS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "mim": ("vision", "mim", SWIN, ""),
    "mim-visible": ("vision", "mim", (*SWIN, "objective.encoder_tokens=visible"), ""),
    "mae": ("vision", "mae", TOWER, ""),
    "beit": ("vision", "beit", TOWER, ""),
    "vision-data2vec": ("vision", "data2vec", (*TOWER, "objective.top_k=2"), ""),
    "vision-classification": ("vision", "classification", SWIN, ""),
    "mlm": ("text", "mlm", TOWER, "text.txt"),
    "clm": ("text", "clm", TOWER, "text.txt"),
    "text-data2vec": ("text", "data2vec", (*TOWER, "objective.top_k=2"), "text.txt"),
    "text-classification": ("text", "classification", TOWER, "classes.csv"),
    "text-regression": ("text", "regression", TOWER, "numbers.csv"),
    "token-classification": ("text", "token_classification", TOWER, "tokens.jsonl"),
    "mgm": ("graph", "mgm", TOWER, "molecules.csv"),
    "graph-data2vec": ("graph", "data2vec", (*TOWER, "objective.top_k=2"), "molecules.csv"),
    "graph-classification": ("graph", "classification", (*TOWER, "data.target=kind"), "molecules.csv"),
    "graph-regression": ("graph", "regression", (*TOWER, "data.target=size"), "molecules.csv"),
    "msm": ("vision,text,graph", "msm", JOINT, ""),
}
SWITCHES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "accumulation": ("train.gradient_accumulation_steps=3",),
    "ema": ("train.ema_decay=0.9",),
    "freeze": ("train.freeze=encoder",),
    "layer_decay": ("train.layer_decay=0.7",),
    "bf16": ("train.bf16=true",),
    "gradient_checkpointing": ("train.gradient_checkpointing=true",),
    "balance": ("train.sampling=balanced",),
    "workers": ("train.dataloader_num_workers=2",),
    "processes": (),
    "stop": (),
    "stop-in-evaluation": (),
}


@dataclass
class Command:
    """One call of the command line in a run of its own.

    Attributes:
        stop: None, "update" (a signal behind update `STOP`) or "evaluation" (in the first evaluation).
        processes: as torchrun would start them.
    """

    arguments: list[str]
    folder: str
    stop: str | None = None
    processes: int = 1


@dataclass
class Cell:
    task: str
    switch: str
    domain: str
    objective: str
    settings: list[str]
    data: str

    @property
    def name(self) -> str:
        return f"{self.task}/{self.switch}"

    @property
    def processes(self) -> int:
        return 2 if self.switch == "processes" else 1

    def arguments(self, data: Path, run: str) -> list[str]:
        given = ["--data", str(data / self.data)] if self.data else []
        return [
            *("train", "--domain", self.domain, "--objective", self.objective, *given),
            *("--output", run, *COMMON, *self.settings),
        ]


def cells(patterns: Sequence[str]) -> list[Cell]:
    """Those whose name fits one of the patterns."""
    every = [
        Cell(task, switch, domain, objective, [*settings, *switch_settings], data)
        for task, (domain, objective, settings, data) in TASKS.items()
        for switch, switch_settings in SWITCHES.items()
    ]
    return [cell for cell in every if any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns)]


# ---- the warm process of a checkout: this file run as a program, with its interpreter

WORKER = "--worker"


def serve() -> None:
    """Runs the commands that come as lines of JSON, each in a fork; answers with exit codes."""
    from unitrans import cli

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:  # loads what every run needs
        kept, sys.stdout = sys.stdout, nowhere
        for domain in ("vision", "text", "graph"):
            cli.main(["train", "--domain", domain, "--print-config"])
        sys.stdout = kept
    print("ready", flush=True)
    for line in sys.stdin:
        command = Command(**json.loads(line))
        port = str(20000 + os.getpid() % 20000)
        children = [_fork(command, rank, port) for rank in range(command.processes)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def _fork(command: Command, rank: int, port: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(command.folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
        if command.processes > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "WORLD_SIZE": str(command.processes),
                "LOCAL_WORLD_SIZE": str(command.processes),
            }
        if command.stop:
            _stop_at(command.stop)
        from unitrans import cli

        code = cli.main(command.arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stop_at(where: str) -> None:
    """SIGTERM to this process behind update `STOP`, or in the evaluation that comes first."""
    import signal

    updates, sent = 0, False

    def count(*_: Any) -> None:
        nonlocal updates, sent
        updates += 1
        if where == "update" and updates == STOP and not sent:
            sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    def judge(module: torch.nn.Module, _: Any) -> None:
        nonlocal sent
        if where == "evaluation" and updates > 0 and not module.training and not sent:
            sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    register_optimizer_step_post_hook(count)
    register_module_forward_pre_hook(judge)


class Checkout:
    """A checkout and its warm process."""

    def __init__(self, folder: Path, python: str | None) -> None:
        own = folder / ".venv" / "bin" / "python"
        interpreter = python or (str(own) if own.exists() else sys.executable)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            [interpreter, str(Path(__file__).resolve()), WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=environment,
        )
        if self._line() != "ready":
            raise SystemExit(f"{folder}: the command line cannot be loaded by {interpreter}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self, command: Command) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(vars(command)) + "\n")
        self.process.stdin.flush()

    def end(self) -> list[int]:
        return list(json.loads(self._line()))

    def run(self, command: Command) -> list[int]:
        self.begin(command)
        return self.end()


# ---- comparing


@dataclass
class Result:
    """What a run left: its exit codes, last words, and values by name."""

    codes: list[int]
    words: str
    values: dict[str, Any] = field(default_factory=dict)


def read_result(folder: Path, run: str, codes: list[int]) -> Result:
    """Values of the last checkpoint and of the log; none for a run that was refused."""
    lines = (folder / "stderr-0").read_text().strip().splitlines()
    words = (lines[-1] if lines else "").replace(str(folder), "FOLDER")
    latest = folder / run / "checkpoints" / "latest"
    values: dict[str, Any] = {}
    if latest.exists():
        for file in sorted(latest.glob("*.safetensors")):
            values |= {f"{file.name}: {name}": x for name, x in load_file(file).items()}
        for file in sorted([*latest.glob("optimizer*.pt"), *latest.glob("rng*.pt")]):
            values |= dict(_leaves(file.name, torch.load(file, weights_only=True)))
    log = folder / run / "metrics.jsonl"
    if log.exists():
        for number, line in enumerate(log.read_text().splitlines()):
            row = {key: x for key, x in json.loads(line).items() if key not in SECONDS}
            values[f"row {number} of the log"] = row
    return Result(codes, words, values)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
    elif isinstance(value, (list, tuple)) and not all(isinstance(x, (int, float)) for x in value):
        for number, part in enumerate(value):
            yield from _leaves(f"{name}[{number}]", part)
    else:
        yield name, value


def differences(one: Result, two: Result) -> list[str]:
    """In words, what is not the same bit for bit."""
    if one.codes != two.codes:
        return [f"exit {one.codes} and {two.codes}: {one.words!r} and {two.words!r}"]
    found = (
        []
        if one.codes == [0] * len(one.codes) or one.words == two.words
        else [f"{one.words!r}, {two.words!r}"]
    )
    for name in sorted(one.values.keys() ^ two.values.keys()):
        found.append(f"{name}: only {'before' if name in one.values else 'after'}")
    for name in one.values.keys() & two.values.keys():
        a, b = one.values[name], two.values[name]
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if a.dtype != b.dtype or a.shape != b.shape:
                found.append(f"{name}: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
            elif not torch.equal(a, b):
                found.append(f"{name}: up to {(a.double() - b.double()).abs().max().item():.2e}")
        elif json.dumps(a, default=str) != json.dumps(b, default=str):
            found.append(f"{name}: {a} and {b}")
    return found


def compare_cell(cell: Cell, old: Checkout, new: Checkout, data: Path, work: Path) -> list[str]:
    """Both checkouts train the cell; then NEW goes on where OLD was stopped."""
    folders = {name: work / cell.name / name for name in ("old", "new", "crossed")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    arguments = cell.arguments(data, "run")
    stop = {"stop": "update", "stop-in-evaluation": "evaluation"}.get(cell.switch)
    codes: dict[str, list[int]] = {}

    def command(where: str, arguments: list[str], stop: str | None = None) -> Command:
        return Command(arguments, str(folders[where]), stop, cell.processes)

    for checkout, where in ((old, "old"), (new, "new")):
        checkout.begin(command(where, arguments, stop))
    for checkout, where in ((old, "old"), (new, "new")):
        codes[where] = checkout.end()
    if stop and codes["old"] == codes["new"] == [143]:
        resume = ["train", "--resume", "run"]
        for checkout, where in ((old, "old"), (new, "new")):
            checkout.begin(command(where, resume))
        for checkout, where in ((old, "old"), (new, "new")):
            codes[where] = checkout.end()
    before = read_result(folders["old"], "run", codes["old"])
    found = differences(before, read_result(folders["new"], "run", codes["new"]))
    if not stop and codes["old"] == [0] * cell.processes and not found:
        stopped = old.run(command("crossed", arguments, "update"))
        if stopped == [143] * cell.processes:
            codes["crossed"] = new.run(command("crossed", ["train", "--resume", "run"]))
            after = read_result(folders["crossed"], "run", codes["crossed"])
            found = [f"stopped by OLD, resumed by NEW: {words}" for words in differences(before, after)]
        else:
            found = [f"OLD does not stop: exit {stopped}"]
    if not found:
        shutil.rmtree(work / cell.name)
    return found if found or codes["old"] == [0] * cell.processes else [f"=both refuse: {before.words}"]


def write_data(folder: Path) -> None:
    """Small tables and texts for the tasks that have none of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "the a tree light stone river walks finds under over small great quiet sun moon of and".split()
    generator = torch.Generator().manual_seed(0)

    def sentence(length: int) -> str:
        return " ".join(words[int(i)] for i in torch.randint(0, len(words), (length,), generator=generator))

    texts = [sentence(5 + n % 9) for n in range(240)]
    (folder / "text.txt").write_text("\n\n".join(texts) + "\n")
    rows = [f"{text},{['dark', 'bright'][text.count('sun') > 0]}" for text in texts]
    (folder / "classes.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    rows = [f"{text},{text.count('tree') + len(text) / 50:.3f}" for text in texts]
    (folder / "numbers.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    tagged = [
        {"tokens": t.split(), "tags": [["O", "NOUN"][w in words[2:6]] for w in t.split()]} for t in texts
    ]
    (folder / "tokens.jsonl").write_text("\n".join(map(json.dumps, tagged)) + "\n")
    chains = ["C" * (1 + n % 9) + ["O", "N", "Cl", "C(=O)O", "c1ccccc1"][n // 9 % 5] for n in range(45)]
    chains += [f"{'C' * (1 + n % 5)}N{'C' * (1 + n // 5)}O" for n in range(25)]
    rows = [f"{smiles},{len(smiles)},{int('O' in smiles)}" for smiles in dict.fromkeys(chains)]
    (folder / "molecules.csv").write_text("smiles,size,kind\n" + "\n".join(rows) + "\n")


# ---- configurations


def configurations(root: Path) -> list[list[str]]:
    """Arguments of `train --print-config` for every shipped configuration and every default."""
    folder = root / "configs"
    names = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
    defaults = sorted({(domain, objective) for domain, objective, _, _ in TASKS.values()})
    return [
        *(["--config", name] for name in names),
        *(["--domain", domain, "--objective", objective] for domain, objective in defaults),
    ]


def compare_configurations(
    old: Checkout, new: Checkout, root: Path, work: Path, added: Sequence[str]
) -> list[str]:
    """In words, where the printed configurations differ in more than the lines of added keys."""
    found = []
    for number, arguments in enumerate(configurations(root)):
        printed = []
        for checkout, where in ((old, "old"), (new, "new")):
            folder = work / "configurations" / str(number) / where
            folder.mkdir(parents=True)
            codes = checkout.run(Command(["train", *arguments, "--print-config"], str(folder)))
            lines = (folder / "stdout-0").read_text().splitlines()
            kept = [line for line in lines if line.split(":")[0].strip(" #") not in added]
            printed.append([f"exit {codes}", *kept])
        if printed[0] != printed[1]:
            first = (
                next((a, b) for a, b in zip(*printed, strict=False) if a != b)
                if printed[0] and printed[1]
                else ()
            )
            found.append(f"{' '.join(arguments)}: {first or 'of different lengths'}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per cell; 1 when any differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_updates", description=__doc__.splitlines()[0]
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="cells, as 'mim/*' or '*/bf16'"
    )
    parser.add_argument("--list", action="store_true", help="name the cells")
    parser.add_argument(
        "--python", nargs=2, metavar=("OLD", "NEW"), help="interpreters, in the place of .venv/bin/python"
    )
    parser.add_argument("--configurations", action="store_true", help="compare printed configurations alone")
    parser.add_argument(
        "--added", nargs="+", default=[], metavar="KEY", help="keys that NEW adds to configurations"
    )
    parser.add_argument("--keep", type=Path, help="keep what differs in this folder")
    options = parser.parse_args(arguments)
    chosen = cells(options.only)
    if options.list:
        print("\n".join(cell.name for cell in chosen))
        return 0
    interpreters = options.python or (None, None)
    old, new = (
        Checkout(folder.resolve(), python)
        for folder, python in zip((options.old, options.new), interpreters, strict=True)
    )
    start, wrong = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.keep or Path(temporary)).resolve()
        if options.configurations:
            found = compare_configurations(old, new, options.old.resolve(), work, options.added)
            print("\n".join(found) or "all printed configurations are equal")
            return int(bool(found))
        write_data(work / "data")
        for number, cell in enumerate(chosen, 1):
            found = compare_cell(cell, old, new, work / "data", work)
            refused = [words.removeprefix("=") for words in found if words.startswith("=")]
            wrong += bool(found) and not refused
            verdict = refused[0] if refused else f"DIFFERS: {'; '.join(found[:4])}" if found else "equal"
            print(f"[{number}/{len(chosen)}] {cell.name}: {verdict}", flush=True)
    print(f"{len(chosen)} cells, {wrong} differ, {time.perf_counter() - start:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        serve()
    else:
        sys.exit(main())
