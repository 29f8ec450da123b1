"""What is trained: every objective in every way a run can go, on data of a few dozen samples and models of a few
channels. A cell is one objective in one way, named DOMAIN-OBJECTIVE/WAY."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.commands import Stop

UPDATES = 12
RESUMED = 4  # the checkpoint that a run is resumed from after a kill; inside a window of the log

COMMON = {
    "train.max_steps": UPDATES,
    "train.per_device_train_batch_size": 8,
    "train.per_device_eval_batch_size": 4,
    "train.logging_steps": 3,
    "train.eval_steps": 6,
    "train.save_steps": 4,
    "train.save_total_limit": None,
    "train.learning_rate": 3e-3,
    "train.warmup_steps": 3,
    "train.max_grad_norm": 1.0,
    "train.use_cpu": True,
}
SWIN = {"name": "swin", "patch_size": 1, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
VIT = {"name": "vit", "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2}
TEXT = {"embed_dim": 8, "depth": 2, "num_heads": 2, "max_position_embeddings": 32, "attn_drop_rate": 0.1}
GRAPH = {"embed_dim": 8, "depth": 2, "num_heads": 2, "attn_drop_rate": 0.1}
DROP = {"drop_rate": 0.1}
DIGITS = {"crop_scale": [0.5, 1.0]}
TEXTS = {"document": "line", "vocab_size": 300, "max_length": 32}


def _settings(section: str, values: dict[str, object]) -> dict[str, object]:
    return {f"{section}.{key}": value for key, value in values.items()}


def _kind(
    flags: str, model: dict[str, object], data: dict[str, object]
) -> tuple[list[str], dict[str, object]]:
    return flags.split(), _settings("model", model | DROP) | _settings("data", data)


#: Flags and settings of every objective.
OBJECTIVES: dict[str, tuple[list[str], dict[str, object]]] = {
    "vision-mim": _kind(
        "--domain vision --objective mim --data digits", SWIN | {"drop_path_rate": 0.1}, DIGITS
    ),
    "vision-mae": _kind("--domain vision --objective mae --data digits", VIT, DIGITS),
    "vision-beit": _kind(
        "--domain vision --objective beit --data digits", VIT | {"drop_path_rate": 0.1}, DIGITS
    ),
    "vision-data2vec": _kind("--domain vision --objective data2vec --data digits", VIT, DIGITS),
    "vision-classification": _kind(
        "--domain vision --objective classification --data digits",
        SWIN | {"drop_path_rate": 0.1},
        DIGITS | {"mixup": 0.8},
    ),
    "text-mlm": _kind("--domain text --objective mlm --data texts.txt", {"name": "bert"} | TEXT, TEXTS),
    "text-clm": _kind("--domain text --objective clm --data texts.txt", {"name": "gpt2"} | TEXT, TEXTS),
    "text-data2vec": _kind(
        "--domain text --objective data2vec --data texts.txt", {"name": "bert"} | TEXT, TEXTS
    ),
    "text-classification": _kind(
        "--domain text --objective classification --data texts.csv --target kind",
        {"name": "bert"} | TEXT,
        {"vocab_size": 300, "max_length": 32},
    ),
    "text-regression": _kind(
        "--domain text --objective regression --data texts.csv --target size",
        {"name": "bert"} | TEXT,
        {"vocab_size": 300, "max_length": 32},
    ),
    "text-token_classification": _kind(
        "--domain text --objective token_classification --data words.jsonl",
        {"name": "bert"} | TEXT,
        {"vocab_size": 300, "max_length": 32},
    ),
    "graph-mgm": _kind("--domain graph --objective mgm --data molecules.csv", GRAPH, {}),
    "graph-data2vec": _kind("--domain graph --objective data2vec --data molecules.csv", GRAPH, {}),
    "graph-classification": _kind(
        "--domain graph --objective classification --data molecules.csv --target kind", GRAPH, {}
    ),
    "graph-regression": _kind(
        "--domain graph --objective regression --data molecules.csv --target size", GRAPH, {}
    ),
    "joint-msm": (
        "--domain vision,text,graph --data.vision digits --data.text texts.txt --data.graph molecules.csv".split(),
        _settings("model", {"embed_dim": 8, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1})
        | _settings("data.text", TEXTS)
        | {"data.mixing": {"vision": 3, "text": 3, "graph": 2}},
    ),
}

#: Settings of every way that is a matter of settings alone.
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "accumulation": {"train.gradient_accumulation_steps": 2, "train.per_device_train_batch_size": 4},
    "ema": {"train.ema_decay": 0.9},
    "freeze": {"train.freeze": "encoder"},
    "layer_decay": {"train.layer_decay": 0.7},
    "bf16": {"train.bf16": True},
    "gradient_checkpointing": {"train.gradient_checkpointing": True},
    "class_balance": {"train.sampling": "balanced"},
    "workers": {"train.dataloader_num_workers": 2},
    "processes": {"train.per_device_train_batch_size": 4},
}
#: Ways that are interrupted, beneath: when. Each is resumed and ends as the plain run does.
STOPS = {
    "stop": Stop(5),
    "stop_in_evaluation": Stop(6, in_evaluation=True),
}


@dataclass(frozen=True)
class Cell:
    """One objective in one way. ``arguments`` are those of ``unitrans``, without the run folder."""

    objective: str
    way: str
    arguments: list[str] = field(repr=False)
    processes: int = 1
    stop: Stop | None = None

    @property
    def name(self) -> str:
        """As --only takes it."""
        return f"{self.objective}/{self.way}"


def cells() -> Iterator[Cell]:
    """All of them; the plain run of an objective before those that stop."""
    for objective, (flags, settings) in OBJECTIVES.items():
        for way in (*WAYS, *STOPS):
            if way == "class_balance" and objective.split("-")[1] != "classification":
                continue
            values = COMMON | settings | WAYS.get(way, {})
            arguments = ["train", *flags, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
            yield Cell(objective, way, arguments, 2 if way == "processes" else 1, STOPS.get(way))


def write_data(folder: Path) -> None:
    """The texts and molecules of the cells, the same every time."""
    draw = random.Random(0)
    words = ["the", "old", "red", "big", "cat", "dog", "car", "ran", "sat", "saw", "and", "a", "on", "mat"]
    lines = [" ".join(draw.choices(words, k=draw.randint(3, 12))) + f" {n} ." for n in range(96)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    kinds = ["cat" if "cat" in line else "dog" if "dog" in line else "other" for line in lines]
    table = [f"{line},{kind},{len(line) / 10}" for line, kind in zip(lines, kinds, strict=True)]
    (folder / "texts.csv").write_text("\n".join(["text,kind,size", *table]) + "\n")
    tagged = [
        {"tokens": line.split(), "tags": ["noun" if w in words[4:7] else "o" for w in line.split()]}
        for line in lines
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tagged))
    ends = ("O", "N", "Cl", "c1ccccc1", "C#N", "C(=O)O", "C(C)C", "S")
    smiles = ["C" * k + end for k in range(1, 11) for end in ends]
    rows = [f"{s},{('ring' if 'c1' in s else 'acid' if '=O' in s else 'chain')},{len(s) / 4}" for s in smiles]
    (folder / "molecules.csv").write_text("\n".join(["smiles,kind,size", *rows]) + "\n")
