"""Whole pretraining steps of masked image modelling with Swin: visible tokens only, all tokens, transformers.

    python -m benchmarks.pretrain --model swin-tiny --dtype fp32
    python -m benchmarks.pretrain --model swin-tiny --memory

A step makes the masks and plans of a batch, runs forward and backward and updates the weights with AdamW. The sides
take turns step by step in one process, on the same images, at equal model, batch and resolution; figures are medians
and ratios of medians, of processor time for one thread. --memory starts a process for each side and reads the peak of
its resident memory during a step, above what it held before (parameters, gradients and optimizer state).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.timing import clock

SIZES = {
    "swin-tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "swin-base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
SIDES = ("visible", "all", "transformers")
GEOMETRY = {"image_size": 192, "patch_size": 4, "window_size": 6, "drop_path_rate": 0.0}
MASK_RATIO, UNIT = 0.6, 32


def ours(args: argparse.Namespace, images: torch.Tensor, tokens: str) -> tuple[torch.nn.Module, Callable]:
    """Our model and its loss; masks and plans are made as a loader worker makes them."""
    from unitrans.domains import get_domain
    from unitrans.models import SwinConfig
    from unitrans.objectives import MaskedSignalModel, get_objective

    config = SwinConfig(**GEOMETRY, **SIZES[args.model])
    objective = get_objective("mim")(
        config, mask_ratio=MASK_RATIO, mask_patch_size=UNIT, encoder_tokens=tokens
    )
    model, domain = MaskedSignalModel.create(config, objective), get_domain("vision")
    keys = model.batch_keys()

    def loss(step: int) -> torch.Tensor:
        samples = [
            objective.corrupt({"id": str(i), "image": image}, np.random.default_rng((step, i)))
            for i, image in enumerate(images)
        ]
        batch = domain.collate(samples, config)
        output = model(**{key: batch[key] for key in keys if key in batch})
        return output.loss_sum / output.num_targets

    return model, loss


def transformers_side(args: argparse.Namespace, images: torch.Tensor) -> tuple[torch.nn.Module, Callable]:
    """The same of transformers."""
    from transformers import SwinConfig, SwinForMaskedImageModeling

    from unitrans.objectives.mim import unit_mask

    config = SwinConfig(**GEOMETRY, **SIZES[args.model], encoder_stride=32, num_channels=3)
    model = SwinForMaskedImageModeling(config)

    def loss(step: int) -> torch.Tensor:
        masks = [
            unit_mask((48, 48), UNIT // 4, MASK_RATIO, np.random.default_rng((step, i)))
            for i in range(len(images))
        ]
        hidden = torch.from_numpy(np.stack(masks)).flatten(1)
        return model(images, bool_masked_pos=hidden).loss

    return model, loss


def make_step(args: argparse.Namespace, side: str) -> Callable[[int], float]:
    """A function that takes one training step and returns the loss."""
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, 192, 192)
    model, loss_of = transformers_side(args, images) if side == "transformers" else ours(args, images, side)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step(number: int) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = loss_of(number)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def speed(args: argparse.Namespace) -> None:
    """Prints images per second of every side, and what visible tokens gain."""
    steps = {side: make_step(args, side) for side in args.sides}
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    now = clock()
    for number in range(args.steps + 1):
        for side, step in steps.items():
            start = now()
            step(number)
            if number:  # the first step makes buffers
                seconds[side].append(now() - start)
    median = {side: statistics.median(times) for side, times in seconds.items()}
    print(f"{args.model}, batch {args.batch}, {args.dtype}, {torch.get_num_threads()} thread(s)")
    for side, value in median.items():
        low, high = min(seconds[side]), max(seconds[side])
        print(f"  {side:<13} {args.batch / value:6.2f} images/s (a step {low:.2f} to {high:.2f} s)")
    for other in args.sides[1:]:
        print(f"  {args.sides[0]} against {other}: {median[other] / median[args.sides[0]]:.2f}x")


def memory_of(args: argparse.Namespace, side: str) -> float:
    """MiB above parameters, gradients and optimizer state, in this process."""
    import ctypes

    step = make_step(args, side)
    step(0)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:  # resets the peak
        file.write("5")
    step(1)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def memory(args: argparse.Namespace) -> None:
    """Prints the memory of every side, each in a process of its own."""
    found = {}
    for side in args.sides:
        command = [sys.executable, "-m", "benchmarks.pretrain", "--one-side", side, "--model", args.model]
        command += ["--batch", str(args.batch), "--dtype", args.dtype, "--threads", str(args.threads)]
        found[side] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for side, value in found.items():
        print(
            f"  {side:<13} {value:7.0f} MiB a step, {value / found['all']:.2f} of all"
            if "all" in found
            else value
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(SIZES), default="swin-tiny")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one-side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one_side:
        print(json.dumps(memory_of(args, args.one_side)))
    elif args.memory:
        memory(args)
    else:
        speed(args)


if __name__ == "__main__":
    main()
