"""Whole models, ours and published ones side by side. `python -m benchmarks.models --help`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import report
from benchmarks.timing import Ratio, interleave
from benchmarks.timm_import import Unavailable, import_timm

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
INFERENCE, TRAINING = "inference", "training step"
CEILING = "attention removed"
CLASSES = 1000

#: (figure, dtype) -> at least this ratio to the best peer.
GOALS = {
    (INFERENCE, "float32"): 1.10,
    (TRAINING, "float32"): 1.15,
    (INFERENCE, "bfloat16"): 1.15,
    (TRAINING, "bfloat16"): 1.10,
}


@dataclass(frozen=True)
class Model:
    """A published model: its name in reports, the side of its pictures, and who makes it (from which name)."""

    title: str
    side: int
    timm: str
    hugging_face: tuple[str, ...]  # attention implementations


MODELS = {
    "swin": Model("Swin-T 224", 224, "swin_tiny_patch4_window7_224", ("sdpa", "eager")),
    "swinv2": Model("SwinV2-T 256", 256, "swinv2_tiny_window8_256", ("eager",)),
}


def _ours(model: Model) -> nn.Module:
    from unitrans import models

    if model.timm.startswith("swinv2"):
        return models.Swinv2ForImageClassification(models.Swinv2Config(num_labels=CLASSES))
    return models.SwinForImageClassification(models.SwinConfig(num_labels=CLASSES))


def _hugging_face(model: Model, attention: str) -> nn.Module:
    import transformers

    if model.timm.startswith("swinv2"):
        v2 = transformers.Swinv2Config(
            num_labels=CLASSES, drop_path_rate=0.0, image_size=model.side, window_size=8
        )
        return transformers.Swinv2ForImageClassification(v2)
    config = transformers.SwinConfig(num_labels=CLASSES, drop_path_rate=0.0, attn_implementation=attention)
    return transformers.SwinForImageClassification(config)


def _timm(model: Model, fused: bool) -> nn.Module:
    import_timm("timm.layers.config").set_fused_attn(fused, experimental=fused)
    return import_timm("timm").create_model(
        model.timm, pretrained=False, num_classes=CLASSES, drop_path_rate=0.0
    )


def contenders(model: Model, compiled: bool) -> dict[str, Callable[[], nn.Module]]:
    """Name -> maker."""
    peers: dict[str, Callable[[], nn.Module]] = {"timm off": lambda: _timm(model, False)}
    if not model.timm.startswith("swinv2"):  # timm has no fused path for V2
        peers["timm fused"] = lambda: _timm(model, True)
    for attention in model.hugging_face:
        peers[f"transformers {attention}"] = lambda attention=attention: _hugging_face(model, attention)  # type: ignore[misc]
    if compiled:
        for name, make in list(peers.items()):
            peers[f"{name} compiled"] = lambda make=make: torch.compile(make())  # type: ignore[misc]
    return {"ours": lambda: _ours(model), CEILING: lambda: _ours(model), **peers}


def _values_alone(qkv: Tensor, *args: object, **kwargs: object) -> Tensor:
    return qkv.select(1, 2)


def _step(model: nn.Module, images: Tensor, labels: Tensor, what: str) -> Callable[[], object]:
    """One figure's worth of work: logits, or logits, cross-entropy and all gradients (no optimizer)."""
    model.train(what == TRAINING)

    def logits() -> Tensor:
        out = model(images)
        return out if isinstance(out, Tensor) else out.logits

    def infer() -> Tensor:
        with torch.inference_mode():
            return logits()

    def train() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(logits().float(), labels).backward()

    return infer if what == INFERENCE else train


def measure(
    model: Model,
    dtype: torch.dtype,
    what: str,
    batch: int,
    seconds: float,
    compiled: bool,
    only: list[str] | None,
) -> list[report.Row]:
    """All contenders in one dtype, interleaved; a row against ours for each."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, model.side, model.side, dtype=dtype)
    labels = torch.randint(0, CLASSES, (batch,))
    runs: dict[str, Callable[[], object]] = {}
    reasons: dict[str, str] = {}
    makers = contenders(model, compiled)
    names = [n for n in makers if only is None or n == "ours" or any(o in n for o in only)]
    for name in names:
        try:
            step = _step(makers[name]().to(dtype), images, labels, what)
            if name == CEILING:
                step = _without_attention(step)
            step()
            runs[name] = step
        except Unavailable as error:
            reasons[name] = str(error)
        except Exception as error:
            reasons[name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
            )
            if name == "ours":
                raise
    times = interleave(runs, seconds=seconds, sample=0.0, rounds=3)
    rows = []
    for name in names:
        if name == "ours":
            continue
        row = report.Row(
            model.title, f"batch {batch}", str(dtype).removeprefix("torch."), torch.get_num_threads(),
            what, "model", name, ["ceiling"] if name == CEILING else [], reason=reasons.get(name, ""),
        )  # fmt: skip
        if name in times:
            row.ratio = Ratio.of(times[name], times["ours"])
            row.seconds = float(np.median(times["ours"]))
            row.peer_seconds = float(np.median(times[name]))
        rows.append(row)
    return rows


def profile(model: Model, dtype: torch.dtype, what: str, batch: int) -> str:
    """Where the time of one step of ours goes, operator by operator, largest first: shares of the whole."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, model.side, model.side, dtype=dtype)
    step = _step(_ours(model).to(dtype), images, torch.randint(0, CLASSES, (batch,)), what)
    step()
    with torch.profiler.profile() as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    lines = [f"{what}, {dtype}, batch {batch}: {total / 1e6:.2f} s"]
    lines += [f"{e.self_cpu_time_total / total:6.1%}  {e.count:5}  {e.key}" for e in events[:18]]
    return "\n".join(lines)


def _without_attention(step: Callable[[], object]) -> Callable[[], object]:
    """Projections, norms, MLPs stay: what a step would cost if attention took no time."""

    def run() -> object:
        with mock.patch("unitrans.nn.block.attention_qkvpacked", _values_alone):
            return step()

    return run


def goals(rows: list[report.Row]) -> list[report.Goal]:
    """The best peer of every cell, and how far the ceiling is."""
    found = []
    for threads in sorted({r.threads for r in rows}):
        for (what, dtype), target in GOALS.items():
            key = (MODELS["swin"].title, what, dtype, threads)
            cell = [r for r in rows if (r.case, r.what, r.dtype, r.threads) == key and r.ratio]
            peers = {r.peer: r.ratio.median for r in cell if r.ratio and "ceiling" not in r.tags}
            ceiling = [r.ratio.median for r in cell if r.ratio and "ceiling" in r.tags]
            detail = ""
            if peers:
                best = min(peers, key=lambda name: peers[name])
                detail = f"; best peer {best}"
                if ceiling:
                    detail += f"; with attention removed {peers[best] / ceiling[0]:.2f}"
            text = f"Swin-T / best peer: {what}, {dtype}, {threads} threads"
            found.append(report.Goal(text, target, min(peers.values()) if peers else None, detail))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="swin")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="thread counts (default: 1)")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument(
        "--what", nargs="+", choices=["inference", "training"], default=["inference", "training"]
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="parts of names of contenders (ours is always there)")
    parser.add_argument("--seconds", type=float, default=30.0, help="per dtype and pass, after warming up")
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too: minutes")
    parser.add_argument("--profile", action="store_true", help="only say where the time of ours goes")
    parser.add_argument(
        "--add-to", type=Path, help="a results JSON whose rows are kept, measured ones replaced"
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/*.json and .md")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    rows: list[report.Row] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.dtype:
            for what in arguments.what:
                figure = INFERENCE if what == "inference" else TRAINING
                if arguments.profile:
                    print(profile(MODELS[arguments.model], DTYPES[name], figure, arguments.batch), flush=True)
                    continue
                measured = measure(
                    MODELS[arguments.model],
                    DTYPES[name],
                    figure,
                    arguments.batch,
                    arguments.seconds,
                    arguments.compile,
                    arguments.only,
                )
                for row in measured:
                    print(report.line(row), flush=True)
                rows += measured
    if arguments.profile:
        return 0
    return report.finish("models", "Whole models against published ones", rows, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
