"""Runs that are killed and go on: afterwards everything is as if nothing had happened.

A run of 12 updates in one cell (objective, with workers, two processes, ...) is killed (SIGKILL) up to three times:
before the n-th thing that it does to its folder, in an update, or at any moment. After each kill it goes on with
``--resume``, or from the beginning where the command says that nothing was saved. Every file of the folder must then
be that of the run nobody killed, byte for byte; of the log the rows without their seconds.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability import warm
from benchmarks.reliability.shared import FAULT, RIGHT, SLOW, Tally
from benchmarks.same_updates import COMMON, SECONDS, TASKS, UPDATES, write_data

SWITCHES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "workers": ("train.dataloader_num_workers=2",),
    "processes": (),
    "ema": ("train.ema_decay=0.9", "train.save_total_limit=1"),
    "often": ("train.save_steps=1", "train.eval_steps=1", "train.save_total_limit=2"),
}
EACH = 6  # trials in a cell, for one run that nobody kills
PATIENCE = 120.0  # seconds for a run
#: What a run does to files, as CPython's audit hooks name it.
_CHANGES = ("os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Kills:
    """See the module."""

    name = "kills"
    share = 0.45
    goal = 500
    what = (
        "runs of 12 updates in all domains, also with workers and on two processes, killed at random moments and "
        "before random writes, and resumed; right: every file of the run (weights, optimizer, generators, log "
        "without seconds, best, report) is that of a run nobody killed"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.data = work / "data"
        write_data(self.data)
        self.whole: dict[str, tuple[Path, float, int]] = {}  # cell -> folder, seconds, changes of the folder

    def cell(self, number: int) -> tuple[str, str]:
        """(task, switch) of a trial; all of them come up in turn, in an order of the seed."""
        cells = [(task, switch) for task in TASKS for switch in SWITCHES]
        random.Random(self.seed).shuffle(cells)
        return cells[number // EACH % len(cells)]

    def trial(self, number: int, tally: Tally) -> None:
        """One run with up to three kills."""
        task, switch = self.cell(number)
        draw = random.Random(f"kills {self.seed} {number}")
        runner = Runner(task, switch, self.data)
        name = f"{task}/{switch}"
        if name not in self.whole:
            for folder, _, _ in self.whole.values():
                shutil.rmtree(folder, ignore_errors=True)
            self.whole = {name: runner.whole(self.work / "whole")}
        straight, seconds, changes = self.whole[name]
        folder = self.work / f"kills-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        killed, wrong, late = runner.cut(folder, draw, seconds, changes)
        if not wrong and not late:
            wrong = differences(straight / "run", folder / "run")
            if not wrong and draw.random() < 0.25:
                wrong = pages_differ(straight, folder)
        if wrong:
            tally.add(FAULT, f"{name}, {killed} kills: {'; '.join(wrong[:4])}")
            return
        tally.add(SLOW if late else RIGHT, times=killed)
        shutil.rmtree(folder)


class Runner:
    """Starts, kills and resumes the processes of one run."""

    def __init__(self, task: str, switch: str, data: Path) -> None:
        domain, objective, settings, name = TASKS[task]
        given = ["--data", str(data / name)] if name else []
        self.processes = 2 if switch == "processes" else 1
        self.begin = ["train", "--domain", domain, "--objective", objective, *given, "--output", "run"]
        later = {setting.partition("=")[0] for setting in SWITCHES[switch]}
        self.begin += [x for x in COMMON if x.partition("=")[0] not in later]
        self.begin += [*settings, *SWITCHES[switch]]
        self.resume = ["train", "--resume", "run"]

    def start(
        self, arguments: list[str], folder: Path, before: Callable[[int], Callable[[], object] | None]
    ) -> list[int]:
        """Process ids; before: what each rank does first."""
        variables: dict[str, str] = {}
        if self.processes > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            variables = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
            variables["LOCAL_WORLD_SIZE"] = "2"
        return [
            warm.start(
                arguments,
                folder,
                rank=rank,
                variables=variables | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if variables else {}),
                before=before(rank),
            )
            for rank in range(self.processes)
        ]

    def finish(self, children: list[int], folder: Path, patience: float = PATIENCE) -> list[warm.Done]:
        """Waits for all."""
        begin = time.monotonic()
        codes = [warm.wait(child, patience - (time.monotonic() - begin)) for child in children]
        return [warm.read_done(folder, code, begin, rank) for rank, code in enumerate(codes)]

    def whole(self, folder: Path) -> tuple[Path, float, int]:
        """The run that nobody kills: its folder, its seconds, and how often it changes its folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begin = time.monotonic()
        done = self.finish(
            self.start(
                self.begin, folder, lambda rank: (lambda: _write_count(folder)) if rank == 0 else None
            ),
            folder,
        )
        bad = [x for x in done if x.code != 0]
        if bad:
            raise RuntimeError(f"the run without kills fails: {bad[0].judge()[1]}\n{' '.join(self.begin)}")
        return folder, time.monotonic() - begin, int((folder / "changes").stat().st_size)

    def cut(
        self, folder: Path, draw: random.Random, seconds: float, changes: int
    ) -> tuple[int, list[str], bool]:
        """Kills the run up to three times, then lets it end: (kills, what is wrong, its time was over)."""
        killed, arguments = 0, self.begin
        for _ in range(draw.randint(1, 3)):
            died, done = self._kill(arguments, folder, draw, seconds, changes)
            killed += died
            if not died:
                if any(x.code for x in done):
                    return killed, [_said(done)], any(x.code is None for x in done)
                return killed, [], False  # it was faster than the killer
            arguments = self.resume
            if self._nothing_saved(folder, arguments):
                shutil.rmtree(folder / "run", ignore_errors=True)
                arguments = self.begin
        done = self.finish(self.start(arguments, folder, lambda _: None), folder)
        if any(x.code is None for x in done):
            return killed, [], True
        return killed, [] if not any(x.code for x in done) else [_said(done)], False

    def _nothing_saved(self, folder: Path, arguments: list[str]) -> bool:
        return not any((folder / "run" / "checkpoints").glob("step-*")) and not any(
            (folder / "run" / "checkpoints").glob(".step-*.old.tmp")
        )

    def _kill(
        self, arguments: list[str], folder: Path, draw: random.Random, seconds: float, changes: int
    ) -> tuple[bool, list[warm.Done]]:
        """Starts the run and kills one of its processes, then the other: (whether it died of that, how it ended)."""
        way, victim = draw.choice(("change", "change", "update", "time")), draw.randrange(self.processes)
        number, moment = draw.randint(1, changes), draw.uniform(0.0, seconds)
        update = draw.randint(1, UPDATES)
        way = "update" if way == "change" and victim else way  # the first process writes

        def before(rank: int) -> Callable[[], object] | None:
            if rank != victim or way == "time":
                return None
            if way == "change":
                return lambda: on_change(folder / "run", number, _die)
            return lambda: _in_update(update)

        children = self.start(arguments, folder, before)
        if way == "time":
            _sleep_while(children[victim], moment)
            os.kill(children[victim], signal.SIGKILL)
        first = warm.wait(children[victim], PATIENCE)
        others = [child for child in children if child != children[victim]]
        if first == -signal.SIGKILL:
            time.sleep(draw.uniform(0.0, 0.3))
            for child in others:
                os.kill(child, signal.SIGKILL)
        codes = {child: warm.wait(child, PATIENCE) for child in others} | {children[victim]: first}
        begin = time.monotonic()
        done = [warm.read_done(folder, codes[child], begin, rank) for rank, child in enumerate(children)]
        return first == -signal.SIGKILL, done


def _said(done: list[warm.Done]) -> str:
    bad = next(x for x in done if x.code)
    return f"exit {[x.code for x in done]}: {bad.sentence[:300]}"


def _sleep_while(child: int, seconds: float) -> None:
    """Sleeps, at most until the child has ended, which stays to be waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(min(0.005, seconds))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_change(run: Path, number: int, action: Callable[[], object]) -> None:
    """In a fork: calls something before the n-th change of what is in a folder (0: before each)."""
    process, place, seen = os.getpid(), str(run), 0

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        opens = event == "open" and isinstance(given[2], int) and bool(given[2] & _WRITING)
        changes = opens or event in _CHANGES
        if not changes or os.getpid() != process or not _inside(given, place):
            return
        seen += 1
        if seen == number or not number:
            action()

    sys.addaudithook(look)


def _inside(given: tuple[Any, ...], place: str) -> bool:
    for path in given[:2]:
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(
            place
        ):
            return True
    return False


def _write_count(folder: Path) -> None:
    file = os.open(folder / "changes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    on_change(folder / "run", 0, lambda: os.write(file, b"x"))


def _in_update(number: int) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen = 0

    def look(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            _die()

    register_optimizer_step_pre_hook(look)


# ---- comparing

#: Files that tell when and how fast, or are gone with their process.
_OWN = re.compile(r"(^|/)(tensorboard/|\.lock|\.heartbeat)")


def differences(straight: Path, cut: Path) -> list[str]:
    """In words, what is not the same in two run folders."""
    kept, found = _files(straight), _files(cut)
    words = [f"only without kills: {name}" for name in sorted(kept.keys() - found.keys())]
    words += [f"only with kills: {name}" for name in sorted(found.keys() - kept.keys())]
    for name in sorted(kept.keys() & found.keys()):
        if kept[name] != found[name]:
            words.append(f"{name} differs")
    return words


def _files(run: Path) -> dict[str, Any]:
    """Content by name: links where they point, the log without seconds."""
    content: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if _OWN.search(name):
            continue
        if path.is_symlink():
            content[name] = os.readlink(path)
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            content[name] = [{key: x for key, x in row.items() if key not in SECONDS} for row in rows]
        elif path.is_file() and path.parent != run / "checkpoints":
            content[name] = path.read_bytes()
    return content


def pages_differ(straight: Path, cut: Path) -> list[str]:
    """The same of the pages that `unitrans report` writes, without the drawn names of their curves."""
    pages = []
    for folder in (straight, cut):
        (folder / "page.html").unlink(missing_ok=True)
        _level_seconds(folder / "run" / "metrics.jsonl")
        done = warm.call(["report", "run", "-o", "page.html"], folder)
        if done.code != 0:
            return [f"report: {done.judge()[1]}"]
        pages.append(re.sub(r"\bg?[0-9a-f]{6,}\b", "", (folder / "page.html").read_text()))
    one, two = (page.splitlines() for page in pages)
    wrong = [f"{a.strip()[:80]!r} and {b.strip()[:80]!r}" for a, b in zip(one, two, strict=False) if a != b]
    return [f"the page of the report: {wrong[0] if wrong else 'another length'}"] if one != two else []


def _level_seconds(log: Path) -> None:
    """Gives all rows of a log the same speeds."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    level = [row | {key: 1.0 for key in SECONDS if key in row} for row in rows]
    log.write_text("".join(json.dumps(row) + "\n" for row in level))
