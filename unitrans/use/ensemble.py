"""Several runs that differ in their seed, and how far their mean can be trusted (--ensemble K).

Members: Lakshminarayanan et al., 2017 (arXiv:1612.01474). Intervals: split conformal prediction with the error divided
by the spread of the members (Lei et al., 2018, arXiv:1604.04173, section 5.2).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.errors import ConfigError
from unitrans.stored import read_json
from unitrans.training import checkpoint as ckpt
from unitrans.training.config import RunConfig, resolve
from unitrans.training.fingerprint import read_kept
from unitrans.training.processes import world_size
from unitrans.training.run import resume, train
from unitrans.training.runs import (
    CONFIG_FILE,
    SUMMARY_FILE,
    command_line,
    create_run_folder,
    write_json,
    write_text,
)
from unitrans.use.predict import ENSEMBLE_FILE, Predictor, half_width

LEVEL = 0.9


def train_ensemble(config: RunConfig, output: str | None, members: int) -> Path:
    """Trains `members` runs with the seeds train.seed, train.seed + 1, ... in one folder, and calibrates them."""
    if members < 2:
        raise ConfigError(f"--ensemble: expected at least 2 members, got {members}")
    if world_size() > 1:
        raise ConfigError(
            "--ensemble trains one run after the other in one process: start it without torchrun"
        )
    folder = create_run_folder(output, config.domain, config.objective["name"])
    names = [f"seed-{config.train['seed'] + member}" for member in range(members)]
    write_json(folder / ENSEMBLE_FILE, {"members": names, "level": LEVEL, "targets": None})
    write_text(folder / CONFIG_FILE, config.to_yaml())
    return _train_members(config, folder, names)


def is_ensemble(run: Path) -> bool:
    """Whether a run folder is that of an ensemble."""
    return (run / ENSEMBLE_FILE).is_file()


def resume_ensemble(folder: Path, accept_changed_data: bool = False) -> Path:
    """Goes on with an ensemble: members that are complete stay, the one that was stopped goes on exactly."""
    names = read_json(folder / ENSEMBLE_FILE)["members"]
    return _train_members(resolve(config=str(folder / CONFIG_FILE)), folder, names, accept_changed_data)


def _train_members(config: RunConfig, folder: Path, names: list[str], accept: bool = False) -> Path:
    """Trains what is not trained yet, and calibrates all."""
    for member, name in enumerate(names):
        run = folder / name
        print(f"\nmember {member + 1} of {len(names)}, {name.replace('-', ' ')}", flush=True)
        if (run / SUMMARY_FILE).is_file():
            print("is trained", flush=True)
        elif ckpt.steps_in(run / "checkpoints"):
            resume(str(run), accept)
        else:
            if run.is_dir():  # stopped before its first checkpoint
                shutil.rmtree(run)
            seed = config.train["seed"] + member
            first = folder / names[0] if member else None
            train(dataclasses.replace(config, train=config.train | {"seed": seed}), str(run), first, accept)
    calibrate(config, folder, names)
    print(f"\nThe ensemble is in {folder}. To predict with it:")
    print(
        f"  {command_line('predict', '--checkpoint', str(folder), 'molecules.csv', '-o', 'predictions.csv')}"
    )
    return folder


def calibrate(config: RunConfig, folder: Path, names: list[str]) -> None:
    """Measures the mean of the members on what was held out, and how wide a 90 % interval has to be."""
    domain = config.get_domain()
    predictor = Predictor(str(folder), complete=False)
    kinds = config.objective_class().label_kinds
    kept, seed = read_kept(folder / names[0]), config.train["seed"]
    source, validation = domain.reopen(config.data_config(), config.model_config(), seed, kinds, kept)
    if validation is None or predictor.labels.kind != "value":
        write_json(folder / ENSEMBLE_FILE, {"members": names, "level": LEVEL, "targets": {}})
        return
    parts = {"validation": validation, "test": source.test}
    mean, spread, truth = {}, {}, {}
    for part, held_out in parts.items():
        if held_out is not None:
            mean[part], spread[part], truth[part] = judge(predictor, held_out)
    targets: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(predictor.labels.names):
        errors = {part: np.abs(mean[part][:, k] - truth[part][:, k]) for part in mean}
        columns = {part: spread[part][:, k] for part in mean}
        targets[name] = fit(errors["validation"], columns["validation"])
        figures = crossed_coverage(errors["validation"], columns["validation"])
        targets[name]["coverage_validation"] = figures
        line = f"{name}: MAE of the mean {np.nanmean(errors['validation']):.4f} (validation)"
        if "test" in errors:
            known = np.isfinite(errors["test"])
            inside = errors["test"][known] <= half_width(targets[name], columns["test"][known])
            targets[name]["coverage_test"] = float(inside.mean())
            targets[name]["mae_test"] = float(errors["test"][known].mean())
            line += f", {targets[name]['mae_test']:.4f} (test)"
        line += f"; of the 90 % intervals {figures:.1%} hold (validation, each half by the other)"
        if "coverage_test" in targets[name]:
            line += f", {targets[name]['coverage_test']:.1%} (test)"
        print(line, flush=True)
    write_json(folder / ENSEMBLE_FILE, {"members": names, "level": LEVEL, "targets": targets})


def judge(
    predictor: Predictor, source: Any, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of the members, and the true values [n, K], in the units of the data."""
    outputs, truths = [], []
    for start in range(0, len(source), batch_size):
        samples = [source.load(i) for i in range(start, min(start + batch_size, len(source)))]
        outputs.append(predictor.outputs(samples))
        truths.append(np.stack([np.asarray(sample["label"], dtype=float) for sample in samples]))
    values = np.concatenate(outputs, axis=1) * np.array(predictor.labels.std) + np.array(
        predictor.labels.mean
    )
    return values.mean(0), values.std(0, ddof=1), np.concatenate(truths)


def fit(errors: np.ndarray, spread: np.ndarray) -> dict[str, Any]:
    """factor and floor of `half_width`, so that LEVEL of these errors lie inside. Missing ones are left out."""
    known = np.isfinite(errors)
    errors, spread = errors[known], spread[known]
    floor = float(np.median(spread)) or 1e-12  # members that agree by chance are not sure
    scaled = np.sort(errors / np.sqrt(np.square(spread) + floor**2))
    place = min(math.ceil((len(scaled) + 1) * LEVEL), len(scaled)) - 1
    return {"factor": float(scaled[place]), "floor": floor}


def crossed_coverage(errors: np.ndarray, spread: np.ndarray) -> float:
    """The share of errors inside intervals that were made from the other half of the samples."""
    known = np.flatnonzero(np.isfinite(errors))
    halves = known[::2], known[1::2]
    inside = [
        errors[judged] <= half_width(fit(errors[made], spread[made]), spread[judged])
        for made, judged in (halves, halves[::-1])
    ]
    return float(np.concatenate(inside).mean())
