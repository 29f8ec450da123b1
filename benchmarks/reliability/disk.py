"""Disks that are full in the middle of a command."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import subprocess
from pathlib import Path

from benchmarks.reliability import materials, warm
from benchmarks.reliability.kills import differences
from benchmarks.reliability.shared import FAULT, REFUSED, RIGHT, Tally


class Disk:
    """See the module."""

    name = "disk"
    share = 0.05
    goal = 300
    what = (
        "training, exports, conversions, vectors, predictions and pages on a disk that is full after a random "
        "number of bytes (a small tmpfs, or a limit on the size of files where nothing can be mounted); right: one "
        "sentence and no half file of a checkpoint, and with room again the run ends as one that never ran out of "
        "it"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.made = materials.make(work)
        self.place = work / "small"
        self.place.mkdir(exist_ok=True)
        self.mounts = self._mount(1 << 20)
        if self.mounts:
            self._unmount()
        self.whole: dict[str, Path] = {}

    def _mount(self, size: int, *options: str) -> bool:
        told = ",".join([*options, f"size={size}"])
        with contextlib.suppress(OSError):
            return not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", told, "none", str(self.place)], capture_output=True
            ).returncode
        return False

    def _unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], capture_output=True, check=False)

    def trial(self, number: int, tally: Tally) -> None:
        """One command."""
        draw = random.Random(f"disk {self.seed} {number}")
        domain = draw.choice(list(materials.TASKS))
        run = str(self.made.runs[domain])
        commands = [
            materials.train(domain, self.made.data, "small/run"),
            ["embed", "--checkpoint", run, str(self._data(domain)), "-o", "small/out.npy"],
            ["predict", "--checkpoint", run, str(self._data(domain)), "-o", "small/out.csv"],
            ["convert", run, "small/out", "--to", "hf"],
            ["report", run, "-o", "small/page.html"],
        ]
        if domain == "vision":
            commands.append(["export", "--checkpoint", run, "--to", "torch-export", "-o", "small/model.pt2"])
        command = draw.choice([commands[0], *commands])
        # Free bytes, over all sizes alike: a page of nothing up to more than a run takes.
        free = int(2 ** draw.uniform(12, 19.5))
        if self.mounts:
            self._mount(free)
        try:
            self._full(command, domain, free, tally)
        finally:
            if self.mounts:
                self._unmount()
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(exist_ok=True)

    def _data(self, domain: str) -> Path:
        return self.made.data / materials.TASKS[domain][1]

    def _full(self, command: list[str], domain: str, free: int, tally: Tally) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (free // 4, resource.RLIM_INFINITY))

        done = warm.call(command, self.work, before=None if self.mounts else limit)
        verdict, words = done.judge()
        if verdict in (RIGHT, REFUSED) and list(self.place.rglob(".step-*.tmp")):
            verdict, words = FAULT, "half a checkpoint is left"
        if verdict == REFUSED and command[0] == "train":
            wrong = self._goes_on(command, domain)
            verdict, words = (FAULT, f"with room again: {wrong}") if wrong else (verdict, words)
        tally.add(verdict, f"{' '.join(command[:2])} of {domain} with {free} bytes: {words}")

    def _goes_on(self, command: list[str], domain: str) -> str:
        """With room again; "" or what is wrong."""
        if self.mounts:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self.place)], check=True)
        run = self.place / "run"
        if any((run / "checkpoints").glob("step-*")):
            done = warm.call(["train", "--resume", "small/run"], self.work)
        else:
            shutil.rmtree(run, ignore_errors=True)
            done = warm.call(command, self.work)
        if done.code != 0:
            return done.judge()[1]
        if domain not in self.whole:
            whole = materials.train(domain, self.made.data, str(self.work / f"whole-{domain}" / "run"))
            (self.work / f"whole-{domain}").mkdir(exist_ok=True)
            if warm.call(whole, self.work).code != 0:
                return "the whole run fails"
            self.whole[domain] = self.work / f"whole-{domain}" / "run"
        return "; ".join(differences(self.whole[domain], run)[:4])
