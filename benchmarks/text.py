"""A training step of BERT with masked language modelling beside BertForMaskedLM of transformers (sdpa).

    python -m benchmarks.text                       BERT-base, 32 texts a batch, three seeds (minutes on a CPU)
    python -m benchmarks.text --depth 2 --seeds 0   the same width with two blocks, one seed
    python -m benchmarks.text --profile             where the time of our step goes
    python -m benchmarks.text --arms packed padded  these two alone; --output FILE adds a line of JSON for every seed

Lengths are log-normal (mean 120 tokens, at most 512), 15 % of the tokens are predicted. In one process, one after
the other in every round:

    packed      ours: the tokens alone, vocabulary projection on predicted rows
    ours-padded our model on the padded batch (rows of padding are computed, attention leaves them out): what is left
                between this and `padded` is the kernel, the fused projections and the smaller projection
    padded      theirs, padded to the longest text of the batch
    bucketed    theirs, batches of texts of similar length drawn from POOL batches (their times are averaged)

Printed are the median ratio of the rounds, its quartiles, and the padding efficiency: real tokens over computed ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from unitrans.models import BertForMaskedLM
from unitrans.models.convert import config_from, load_weights
from unitrans.models.text_plans import TextPlans
from unitrans.ops import Plan

IGNORED = -100
CLS, SEP, MASK = 101, 102, 103


def lengths_of(seed: int, count: int, mean: float = 120.0, longest: int = 512) -> np.ndarray:
    """Log-normal lengths of texts with this mean (before they are cut)."""
    rng = np.random.default_rng(seed)
    sigma = 0.8
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(drawn.round().astype(int), 8, longest)


def texts_of(seed: int, lengths: Sequence[int], vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    """(tokens, labels) of every text: 15 % are predicted, which have the mask token in their place."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for n in lengths:
        ids = torch.randint(1000, vocab_size, (int(n),), generator=generator)
        ids[0], ids[-1] = CLS, SEP
        asked = torch.rand(int(n), generator=generator) < 0.15
        asked[0] = asked[-1] = False
        asked[1] = True
        texts.append((torch.where(asked, MASK, ids), torch.where(asked, ids, IGNORED)))
    return texts


def padded(texts: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The batch that a padding collator makes."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([ids for ids, _ in texts], batch_first=True)
    labels = pad([labels for _, labels in texts], batch_first=True, padding_value=IGNORED)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def efficiency(batches: Sequence[dict[str, Tensor]]) -> float:
    """Real tokens over computed ones."""
    return float(
        sum(b["attention_mask"].sum() for b in batches) / sum(b["attention_mask"].numel() for b in batches)
    )


class Step:
    """A training step: loss, backward, clipping, AdamW."""

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model, self.loss = model.train(), loss
        self.optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def __call__(self) -> float:
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


Run = list[Step]  # a small one that warms up, then one for every batch


def packed_loss(model: Any, texts: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
    """Our loss on the tokens alone."""
    ids, labels = (torch.cat(column) for column in zip(*texts, strict=True))
    plans = model.config.plans([len(ids) for ids, _ in texts])
    return lambda: model(ids, labels=labels, plans=plans).loss


def our_padded_loss(model: Any, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Our loss with the rows of padding computed too."""
    ids, labels = batch["input_ids"], batch["labels"].flatten()
    rows, columns = ids.shape
    groups = Plan.from_padding_mask(batch["attention_mask"] == 0)
    plans = TextPlans(
        groups,
        torch.arange(rows).repeat_interleave(columns),
        batch["attention_mask"].sum(1),
        torch.arange(columns).repeat(rows),
    )

    def loss() -> Tensor:
        hidden = model.encoder.features(ids.flatten(), plans)
        asked = (labels != IGNORED).nonzero().squeeze(1)
        scores = model.head.scores(hidden[asked], model.encoder.embeddings.word_embeddings.weight)
        return F.cross_entropy(scores, labels[asked])

    return loss


def their_loss(model: Any, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Their loss on a padded batch."""
    return lambda: model(**batch).loss


def compare(seed: int, options: argparse.Namespace) -> None:
    """One seed: prints the ratios."""
    torch.manual_seed(0)
    theirs_config = transformers.BertConfig(
        num_hidden_layers=options.depth,
        hidden_size=options.width,
        num_attention_heads=options.width // 64,
        intermediate_size=4 * options.width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        architectures=["BertForMaskedLM"],
    )
    theirs = transformers.BertForMaskedLM._from_config(theirs_config, attn_implementation="sdpa")
    ours = BertForMaskedLM(config_from("hf5", theirs_config.to_dict()))
    load_weights(ours, theirs.state_dict(), "hf5")
    pool = [
        texts_of(1000 * seed + n, lengths_of(1000 * seed + n, options.batch), theirs_config.vocab_size)
        for n in range(options.pool)
    ]
    every = sorted((text for texts in pool for text in texts), key=lambda text: len(text[0]))
    batches = [padded(texts) for texts in pool]
    buckets = [padded(every[start : start + options.batch]) for start in range(0, len(every), options.batch)]
    with torch.no_grad():
        ours.eval(), theirs.eval()
        want, got = theirs(**padded(every[:4])).loss, packed_loss(ours, every[:4])()
        if abs(float(want) - float(got)) > 1e-3:
            raise SystemExit(f"the losses differ: {float(want):.5f} there, {float(got):.5f} here")

    def loop(model: torch.nn.Module, losses: list[Callable[[], Tensor]], first: Callable[[], Tensor]) -> Run:
        warm = Step(model, first)
        return [warm, *(Step(model, loss, warm.optimizer) for loss in losses)]

    few = every[:2]  # the shortest texts: they warm up
    runs: dict[str, Run] = {
        "packed": loop(ours, [packed_loss(ours, texts) for texts in pool], packed_loss(ours, few)),
        "ours-padded": loop(
            ours, [our_padded_loss(ours, batch) for batch in batches], our_padded_loss(ours, padded(few))
        ),
        "padded": loop(theirs, [their_loss(theirs, b) for b in batches], their_loss(theirs, padded(few))),
        "bucketed": loop(theirs, [their_loss(theirs, b) for b in buckets], their_loss(theirs, padded(few))),
    }
    times = interleave({name: runs[name] for name in options.arms}, options.rounds)
    tokens = sum(len(ids) for texts in pool for ids, _ in texts)
    print(
        f"seed {seed}: {tokens:,} tokens in {options.pool} batches of {options.batch} texts; padding efficiency "
        f"{efficiency(batches):.3f}, bucketed {efficiency(buckets):.3f}; ours {np.median(times['packed']):.2f} s, "
        f"{tokens / np.median(times['packed']):,.0f} tokens/s"
    )
    need = 0.95 / efficiency(batches)
    found: dict[str, Any] = {
        "seed": seed, "depth": options.depth, "width": options.width, "batch": options.batch, "pool": options.pool,
        "rounds": options.rounds, "threads": torch.get_num_threads(), "tokens": tokens,
        "efficiency": efficiency(batches), "efficiency_bucketed": efficiency(buckets), "seconds": times, "ratios": {},
    }  # fmt: skip
    for name, top, bottom, goal in (
        ("padded / packed", "padded", "packed", f" (goal {need:.2f})"),
        ("bucketed / packed", "bucketed", "packed", " (goal 1.20)"),
        ("share of not padding: ours-padded / packed", "ours-padded", "packed", ""),
        ("share of kernel and head: padded / ours-padded", "padded", "ours-padded", ""),
    ):
        if top not in times or bottom not in times:
            continue
        low, median, high = np.quantile(np.array(times[top]) / np.array(times[bottom]), [0.25, 0.5, 0.75])
        found["ratios"][name] = [low, median, high]
        print(f"  {name:<48} {median:.2f}x ({low:.2f}-{high:.2f}){goal}", flush=True)
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def interleave(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, one figure per round; processor time for one thread, wall time for several. Before the
    first round every run makes its small step."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    for steps in runs.values():
        steps[0]()
    for _ in range(rounds):
        for name, steps in runs.items():
            begin = now()
            for step in steps[1:]:
                step()
            times[name].append(now() - begin)
    return times


def profile(options: argparse.Namespace) -> None:
    """Prints where the time of our step goes, by operator."""
    config = config_from(
        "hf5",
        {
            "model_type": "bert",
            "num_hidden_layers": options.depth,
            "hidden_size": options.width,
            "num_attention_heads": options.width // 64,
            "intermediate_size": 4 * options.width,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "architectures": ["BertForMaskedLM"],
        },
    )
    model = BertForMaskedLM(config)
    step = Step(model, packed_loss(model, texts_of(0, lengths_of(0, options.batch), config.vocab_size)))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"one step: {total / 1e6:.2f} s")
    for row in rows[: options.top]:
        share = row.self_cpu_time_total / total
        print(f"  {share:6.1%}  {row.count:5d} calls  {row.key}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arms = ("packed", "ours-padded", "padded", "bucketed")
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms)
    parser.add_argument("--output", type=Path, help="a file of JSON lines")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--top", type=int, default=15)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )
    if options.profile:
        profile(options)
        return
    for seed in options.seeds:
        compare(seed, options)


if __name__ == "__main__":
    main()
