"""The one list of what `unitrans bench` measures, and the loop over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from benchmarks import rows
from benchmarks.compare import Effort, compare, in_words
from benchmarks.rows import Curve, Results, Roofline, Row, Series

SUITES = ("attention", "models", "pretrain", "quality")


@dataclass(frozen=True)
class Options:
    """How much is measured, and where."""

    device: str = "cpu"
    quick: bool = False
    compiled: bool = False  # peers of the op and training steps too: minutes a case


@dataclass
class Found:
    """What one entry gives; most give rows only."""

    rows: list[Row] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    roofline: Roofline | None = None
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """One thing to measure."""

    suite: str
    name: str
    measure: Callable[[Options], Found]


def _op(name: str, dtype: torch.dtype, options: Options) -> Found:
    from benchmarks import attention, cases, goals, peers

    case = cases.case_named(name).times(16 if options.device == "cuda" else 1)
    found = []
    for what in (goals.FORWARD, goals.BOTH):
        against = peers.peers_of(case, dtype, compiled=options.compiled, device=options.device)
        seconds = 0.2 if options.quick else 0.6
        found += attention.measure(case, dtype, what, against, seconds, options.device)
    return Found(found)


def _scaling(options: Options) -> Found:
    from benchmarks import scaling

    return Found(series=scaling.scaling(options.quick, Effort(0.1 if options.quick else 0.4, 3)))


def _roofline(options: Options) -> Found:
    from benchmarks import scaling

    return Found(roofline=scaling.roofline(options.quick, Effort(0.4 if options.quick else 2.0, 3)))


def _model(name: str, what: str, options: Options) -> Found:
    from benchmarks import contenders, models

    model = contenders.MODELS[name]
    size = model.quick if options.quick else model.full
    effort = Effort(0.2, 1, 0.0) if options.quick else Effort(2.0, 3, 0.0)
    short = options.quick or (what == contenders.TRAINING and not options.compiled)
    compiled = "none" if short else "named"
    found = models.measure(model, size, torch.float32, what, effort, compiled=compiled, device=options.device)
    return Found(found)


def _objective(name: str, options: Options) -> Found:
    from benchmarks import objectives

    scale = objectives.QUICK if options.quick else objectives.FULL
    sides = objectives.OBJECTIVES[name](replace(scale, device=options.device))
    effort = Effort(0.3, 3, 0.0) if options.quick else Effort(1.5, 3, 0.0)
    return Found(compare(("pretrain", name, objectives.STEP), sides, effort, device=options.device))


def _input(name: str, options: Options) -> Found:
    """Work of the host, whatever the device."""
    from benchmarks import inputs

    effort = Effort(0.3) if options.quick else Effort(2.0)
    sides = inputs.INPUTS[name](32 if options.quick else 64)
    return Found(compare(("pretrain", name, inputs.PREPARING), sides, effort))


def _quality(name: str, options: Options) -> Found:
    from benchmarks import quality

    task = next(task for task in quality.TASKS if task.name == name)
    seconds, seeds = (2.0, (0,)) if options.quick else (8.0, (0, 1))
    found, curve = quality.measure(task, seconds, seeds, options.device)
    return Found(found, curves=[curve])


def entries(options: Options) -> list[Entry]:
    """Everything, in order. A GPU has no scaling over threads and no measured roof here: those are of the CPU."""
    from benchmarks.cases import CASES, quick_cases
    from benchmarks.contenders import INFERENCE, MODELS, TRAINING
    from benchmarks.inputs import INPUTS
    from benchmarks.objectives import OBJECTIVES
    from benchmarks.quality import TASKS

    shapes, few = [case.name for case in CASES], [case.name for case in quick_cases()]
    fp32, bf16 = torch.float32, torch.bfloat16
    found = [Entry("attention", n, partial(_op, n, fp32)) for n in (few if options.quick else shapes)]
    found += [] if options.quick else [Entry("attention", n, partial(_op, n, bf16)) for n in few]
    if options.device == "cpu":
        found += [Entry("attention", "scaling", _scaling), Entry("attention", "roofline", _roofline)]
    for name in MODELS:
        found += [
            Entry("models", f"{name}, {what}", partial(_model, name, what)) for what in (INFERENCE, TRAINING)
        ]
    found += [Entry("pretrain", name, partial(_objective, name)) for name in OBJECTIVES]
    found += [Entry("pretrain", name, partial(_input, name)) for name in INPUTS]
    return found + [Entry("quality", task.name, partial(_quality, task.name)) for task in TASKS]


def run(
    wanted: list[Entry], options: Options, say: Callable[[str], None], save: Callable[[Results], None]
) -> int:
    """Measures, and saves after every entry. Returns how many of ours failed: each is a row with the reason."""
    results, failed, begin = Results(rows.environment() | {"quick": options.quick}), 0, time.perf_counter()
    results.head["device"] = options.device
    for number, entry in enumerate(wanted, 1):
        say(f"{number}/{len(wanted)}  {entry.suite}: {entry.name}")
        start = time.process_time()
        try:
            found = entry.measure(options)
        except Exception as error:
            failed += 1
            threads, reason = torch.get_num_threads(), f"ours failed: {in_words(error)}"
            found = Found([Row(entry.name, "", "", threads, "", "", "", suite=entry.suite, reason=reason)])
        for row in found.rows:
            say(rows.line(row))
        say(f"    {time.process_time() - start:.0f} s of the processor")
        results.rows += found.rows
        results.series += found.series
        results.curves += found.curves
        results.roofline = found.roofline or results.roofline
        results.head["seconds"] = round(time.perf_counter() - begin, 1)
        save(results)
    return failed


def chosen(suite: str, options: Options, case: str | None = None) -> Iterator[Entry]:
    """The entries of a suite (or "all") whose names begin so."""
    for entry in entries(options):
        if suite in ("all", entry.suite) and (case is None or entry.name.startswith(case)):
            yield entry
