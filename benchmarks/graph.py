"""Graphormer against its published formula: preprocessing, building the bias, a training step, memory.

    python -m benchmarks.graph                          all of it, at the sizes that docs/performance.md states
    python -m benchmarks.graph --size slim --graphs 64  a quick look
    python -m benchmarks.graph --only preprocessing --official Graphormer

The other side is `benchmarks.graph_padded`, the published formula written down in plain PyTorch on padded batches. Both
sides get the same graphs and weights and take turns; figures are ratios of medians.

--official: a checkout of microsoft/Graphormer, whose own preprocessing is then measured too. Its Cython file has to be
compiled there (`pip install 'cython<3'`, then `cythonize -i graphormer/data/algos.pyx`).
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.graph_padded import PaddedGraphormer, collate, preprocess
from unitrans.models import Graphormer, GraphormerConfig
from unitrans.models.convert import export_weights
from unitrans.models.graphormer.plans import pack_official


def zinc_like(count: int, seed: int, outlier: bool) -> list[dict[str, np.ndarray]]:
    """Random molecules' shapes: trees with a few rings, as many atoms as ZINC's (mean 23, largest 37), degree <= 4."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.normal(23.2, 4.5, count).round().astype(int), 9, 37)
    if outlier:
        sizes = np.clip(rng.normal(14.0, 3.0, count).round().astype(int), 5, 22)
        sizes[0] = 38
    return [random_molecule(int(n), rng) for n in sizes]


def random_molecule(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Edges in both directions, categories as OGB's."""
    degree, bonds = np.zeros(n, dtype=int), []
    for node in range(1, n):
        free = np.flatnonzero(degree[:node] < 3)
        other = int(free[-1 - min(int(rng.geometric(0.5)) - 1, len(free) - 1)])
        bonds.append((other, node))
        degree[[other, node]] += 1
    for _ in range(max(1, n // 8)):  # a ring closes over five or six atoms
        a = int(rng.integers(0, max(1, n - 6)))
        bonds.append((a, min(n - 1, a + int(rng.integers(4, 6)))))
    bonds = [bond for bond in dict.fromkeys(bonds) if bond[0] != bond[1]]
    ends = np.array([pair for i, j in bonds for pair in ((i, j), (j, i))], dtype=np.int64).T.reshape(2, -1)
    attr = np.stack([rng.choice([0, 1, 3], len(bonds), p=[0.55, 0.1, 0.35]), np.zeros(len(bonds), int)], 1)
    attr = np.concatenate([attr, rng.integers(0, 2, (len(bonds), 1))], 1).repeat(2, axis=0)
    limits = [8, 3, 5, 8, 4, 2, 4, 2, 2]
    return {"nodes": rng.integers(0, limits, (n, 9)), "edge_index": ends, "edge_attr": attr}


def packed(config: GraphormerConfig, graphs: list[dict[str, np.ndarray]]):
    """What our loader hands to the model."""
    plans = config.plans(
        [len(g["nodes"]) for g in graphs],
        [g["edge_index"].shape[1] for g in graphs],
        np.concatenate([g["edge_index"] for g in graphs], axis=1),
        np.concatenate([g["edge_attr"] for g in graphs]),
    )
    return torch.from_numpy(np.concatenate([g["nodes"] for g in graphs])), plans


clock = time.perf_counter  # --cpu-time: of the processor, where others use the machine too


def take_turns(sides: dict[str, object], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each side, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + repeats):
        for name, side in sides.items():
            start = clock()
            side()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def efficiency(graphs) -> float:
    """Real tokens over those of the padded batch."""
    sizes = [len(g["nodes"]) + 1 for g in graphs]
    return sum(sizes) / (max(sizes) * len(sizes))


def line(what: str, ours: float, theirs: float, unit: str = "ms", scale: float = 1e3) -> None:
    figures = f"ours {ours * scale:9.2f} {unit}   published {theirs * scale:9.2f} {unit}   ratio {theirs / ours:6.2f}"
    print(f"{what:<40} {figures}")


def preprocessing(graphs, config: GraphormerConfig, folder: str | None) -> None:
    """Distances, paths and collation, per graph: against the published code, compiled, and against it in NumPy."""
    few = graphs[:64]
    sides = {"ours": lambda: packed(config, few)}
    try:
        theirs = official_preprocessing(folder)
        _, read_back = pack_official(config, theirs(few))
        same = [torch.equal(read_back.pairs.distance, packed(config, few)[1].pairs.distance)]
        same.append(torch.equal(read_back.pairs.degree, packed(config, few)[1].pairs.degree))
        assert all(same), "the published features are others"
        sides["compiled"] = lambda: theirs(few)
    except (TypeError, OSError, StopIteration, ImportError) as error:
        reason = "no --official" if folder is None else f"{type(error).__name__} {error}"
        print(f"preprocessing against the published Cython: skipped ({reason}: see the head of this file)")
    sides["transcribed"] = lambda: collate([preprocess(hops=config.multi_hop_max_dist, **g) for g in few])
    times = {name: seconds / len(few) for name, seconds in take_turns(sides, 5).items()}
    for name, what in (("compiled", "published Cython"), ("transcribed", "published, in NumPy")):
        if name in times:
            line(f"preprocessing, {what}, per graph", times["ours"], times[name], "us", 1e6)


def official_preprocessing(folder: str | None) -> Callable[[list[dict[str, np.ndarray]]], object]:
    """What the published loader does with graphs: its compiled Floyd-Warshall and walk along paths, its collator.

    Raises:
        TypeError, OSError, StopIteration, ImportError: there is no such folder, or nothing compiled in it.
    """
    place = Path(folder, "graphormer", "data")  # type: ignore[arg-type]
    files = {"algos": next(place.glob("algos.*.so")), "collator": place / "collator.py"}
    modules = {}
    for name, file in files.items():
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    algos, collator = modules["algos"], modules["collator"].collator

    def ids(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values) + 1 + 512 * torch.arange(values.shape[1])

    def item(graph: dict[str, np.ndarray]) -> SimpleNamespace:
        n, ends = len(graph["nodes"]), torch.from_numpy(graph["edge_index"])
        linked = torch.zeros(n, n, dtype=torch.bool)
        linked[ends[0], ends[1]] = True
        kinds = torch.zeros(n, n, graph["edge_attr"].shape[1], dtype=torch.int64)
        kinds[ends[0], ends[1]] = ids(graph["edge_attr"]) + 1
        distance, path = algos.floyd_warshall(linked.numpy())
        edges = algos.gen_edge_input(distance.max(), path, kinds.numpy())
        degree = linked.long().sum(1)
        return SimpleNamespace(
            idx=0,
            x=ids(graph["nodes"]),
            attn_bias=torch.zeros(n + 1, n + 1),
            attn_edge_type=kinds,
            spatial_pos=torch.from_numpy(distance).long(),
            in_degree=degree,
            out_degree=degree,
            edge_input=torch.from_numpy(edges).long(),
            y=torch.zeros(1),
        )

    return lambda graphs: collator([item(g) for g in graphs], 128, 5, 1024)


def steps(name: str, graphs, config: GraphormerConfig, repeats: int) -> None:
    """Building the bias forward and backward, and a whole training step with AdamW, for one batch."""
    torch.manual_seed(0)
    model = Graphormer(config)
    padded = PaddedGraphormer(config)
    shapes = padded.state_dict()
    padded.load_state_dict({k: v.view_as(shapes[k]) for k, v in export_weights(model, "v2").items()})
    nodes, plans = packed(config, graphs)
    batch = collate([preprocess(hops=5, **g) for g in graphs])
    with torch.no_grad():
        model.eval(), padded.eval()
        difference = (model(nodes, plans).logits - padded(batch)).abs().max().item()
        model.train(), padded.train()
    print(
        f"\n{name}: {len(graphs)} graphs, {len(nodes)} nodes, padding efficiency {efficiency(graphs):.2f}; "
    )
    print(f"largest difference of the outputs {difference:.1e}")

    def ours_bias() -> None:
        planes = model.encoder.bias(plans)
        planes.backward(torch.ones_like(planes))
        model.zero_grad()

    theirs = padded.encoder.graph_encoder.graph_attn_bias

    def theirs_bias() -> None:
        bias = theirs(batch)
        bias.backward(torch.ones_like(bias))
        padded.zero_grad()

    times = take_turns({"ours": ours_bias, "theirs": theirs_bias}, repeats)
    line("bias, forward and backward", times["ours"], times["theirs"])

    def step(network, inputs):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        target = torch.zeros(len(graphs), config.num_outputs)

        def run() -> None:
            output = network(*inputs)
            output = getattr(output, "logits", output)
            (output - target).abs().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    times = take_turns({"ours": step(model, (nodes, plans)), "theirs": step(padded, (batch,))}, repeats)
    line("training step", times["ours"], times["theirs"])
    print(f"{'':<46} the padding alone would be {1 / efficiency(graphs):.2f}")


def memory(side: str, what: str, size: str, count: int) -> None:
    """Prints the peak of this process above what it held before the step, in MiB. One side a process."""
    torch.set_num_threads(1)
    config = GraphormerConfig.named(size)
    graphs = zinc_like(count, 0, outlier=False)
    model = Graphormer(config) if side == "ours" else PaddedGraphormer(config)
    ours = side == "ours"
    inputs = packed(config, graphs) if ours else (collate([preprocess(hops=5, **g) for g in graphs]),)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # parameters, gradients and moments are there before
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    if what == "bias":
        encoder = model.encoder
        planes = encoder.bias(inputs[1]) if ours else encoder.graph_encoder.graph_attn_bias(inputs[0])
        planes.backward(torch.ones_like(planes))
    else:
        output = model(*inputs)
        getattr(output, "logits", output).abs().sum().backward()
    print(resident("VmHWM") - before)


def resident(which: str) -> float:
    """Memory of this process in MiB: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(which)).split()[1]) / 1024


def compare_memory(size: str, count: int) -> None:
    """Each side and each measurement in a process of its own, which gives freed memory back at once."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for what in ("bias", "step"):
        peaks = {}
        for side in ("ours", "theirs"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.graph",
                "--memory",
                side,
                what,
                "--size",
                size,
                "--graphs",
                str(count),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            peaks[side] = float(done.stdout)
        print(
            f"peak memory, {what:<33} ours {peaks['ours']:9.1f} MiB  published {peaks['theirs']:9.1f} MiB  "
            f"share {peaks['ours'] / peaks['theirs']:6.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("slim", "base", "large"), help="one size; default: slim and base")
    parser.add_argument("--graphs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("preprocessing", "steps", "memory"))
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor, on one thread")
    parser.add_argument("--official", metavar="DIR", help="a checkout of microsoft/Graphormer, compiled")
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(*options.memory, options.size, options.graphs)
        return
    if options.cpu_time:
        global clock
        clock = time.process_time
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    drop = {"attn_drop_rate": 0.0, "act_drop_rate": 0.0}
    usual = zinc_like(options.graphs, 0, outlier=False)
    if options.only in (None, "preprocessing"):
        preprocessing(usual, GraphormerConfig(), options.official)
    for size in [options.size] if options.size else ["slim", "base"]:
        config = GraphormerConfig.named(size, **drop)
        if options.only in (None, "steps"):
            steps(f"{size}, ZINC-like", usual, config, options.repeats)
            steps(
                f"{size}, one outlier of 38 atoms",
                zinc_like(options.graphs, 1, True),
                config,
                options.repeats,
            )
        if options.only in (None, "memory"):
            compare_memory(size, options.graphs)


if __name__ == "__main__":
    main()
