"""The quick form of the campaign: some trials of every kind, and that what is wrong is counted as such."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.reliability import __main__ as campaign
from benchmarks.reliability import page, shared, warm
from benchmarks.reliability.kinds import KINDS
from unitrans import cli

TRIALS = {"invocations": 8, "damaged": 5, "exploits": 6, "disk": 1}
#: Tests of their own: tests/training/test_killed.py and tests/ops/test_plan_doors.py.
ELSEWHERE = {"kills", "calls", "calls under ASan"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all, so that its data and runs are made once; everything is imported."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "MPLBACKEND"):
            patch.setenv(name, "1")  # load sets them, and they come back as they were
        warm.load(folder)
        yield folder


def test_every_kind_has_trials() -> None:
    assert TRIALS.keys() | ELSEWHERE == KINDS.keys()


@pytest.mark.parametrize("name", TRIALS)
def test_no_trial_shows_a_fault(name: str, work: Path) -> None:
    kind, tally = KINDS[name](7, work), shared.Tally()
    for number in range(TRIALS[name]):
        campaign.attempt(kind, number, tally)
    assert not tally.faults and tally.tried


def test_faults_are_counted_and_say_how_they_are_repeated(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(arguments: object) -> int:
        raise KeyError("nobody made a sentence of it")

    kind, tally = KINDS["invocations"](7, work), shared.Tally()
    monkeypatch.setattr(cli, "main", broken)
    campaign.attempt(kind, 3, tally)
    assert tally.counts == {"fault": 1}
    assert "KeyError" in tally.faults[0]
    assert tally.faults[0].endswith("--kinds invocations --seed 7 --number 3)")


@pytest.mark.parametrize(
    ("code", "err", "verdict"),
    [
        (0, "", "right"),
        (2, "unitrans: data.path: expected a folder\n", "refused"),
        (2, "Traceback (most recent call last):\nunitrans: x\n", "fault"),
        (2, "something\n", "fault"),
        (-11, "", "fault"),
        (70, "unitrans: x\n", "fault"),
        (None, "", "slow"),
    ],
)
def test_how_commands_end(code: int | None, err: str, verdict: str) -> None:
    assert warm.Done(code, "", err, 1.0).judge()[0] == verdict


def test_results_add_up_to_the_page(tmp_path: Path) -> None:
    for seed in (0, 1):
        tally = shared.Tally()
        tally.add("right", times=3)
        if seed:
            tally.add("fault", "it broke (again: command)")
        shared.write(
            tmp_path / f"seed-{seed}.json",
            page.machine() | {"seed": seed, "date": "2026-01-01"},
            {"disk": tally},
        )
    page.write(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| disk | 7 | 300 | 6 | 0 | 0 | 0 | 1 |" in text and "- disk: it broke (again: command)" in text
    stored = json.loads((tmp_path / "seed-1.json").read_text())
    assert stored["kinds"]["disk"]["counts"] == {"right": 3, "fault": 1}
