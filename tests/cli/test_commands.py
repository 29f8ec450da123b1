"""The commands as a person types them: in a process of their own, in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unitrans.cli import main

ROOT = Path(__file__).parents[2]
ENTRY = [sys.executable, "-c", "import sys; from unitrans.cli import main; sys.exit(main())"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SMALL = ["model.embed_dim=8", "model.num_heads=[1, 2]", "train.per_device_train_batch_size=8"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def unitrans(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENTRY, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=200)


def test_three_steps_of_the_default() -> None:
    done = unitrans("train", "--domain", "vision", "--objective", "mim", "train.max_steps=3")
    assert done.returncode == 0, done.stderr
    run = Path("runs/vision-mim-1")
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "reconstructions.png",
        "curves.png",
    }
    assert "tokens/s" in done.stderr and "left" in done.stderr
    lines = done.stdout.splitlines()
    commands = lines[lines.index("Next:") + 1 :]
    assert len(commands) == 3
    typed = [command.partition("#")[0].strip() for command in commands]
    assert typed[1] == "unitrans train --config runs/vision-mim-1/config.yaml train.seed=1"
    assert unitrans(*typed[2].split()[1:]).stdout.startswith("# Which domain")


def test_help_is_quick_and_names_everything() -> None:
    start = time.perf_counter()
    done = unitrans("train", "--help")
    seconds = time.perf_counter() - start
    assert done.returncode == 0 and "--print-config" in done.stdout and "key=value" in done.stdout
    check = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules))"
    command = [sys.executable, "-c", f"{check}; from unitrans.cli import main; main(['train', '--help'])"]
    light = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert light.stdout.splitlines()[-1] == "False"
    assert seconds < 5  # a tenth of a second on a machine that is not busy


def test_top_level_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        assert "train" in capsys.readouterr().out
    assert main(["--version"]) == 0


def test_doctor_tells_versions_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("unitrans", "torch", "threads", "reference: serves", "GPU"))
    assert (code == 0) == ("no problem found" in printed)


def test_doctor_names_an_untested_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.__version__", "2.99.0")
    assert main(["doctor"]) == 1
    assert "torch 2.99.0 is untested" in capsys.readouterr().out


def test_the_printed_configuration_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", *SMALL]) == 0
    first = capsys.readouterr().out
    Path("my.yaml").write_text(first)
    assert main(["train", "--config", "my.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert list(Path().iterdir()) == [Path("my.yaml")]


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dry-run", *SMALL]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert list(Path().iterdir()) == []


WRONG = [
    (
        ["trian"],
        "unknown command 'trian': expected one of train, predict, eval, embed, export, convert, bench, report, doctor; "
        "did you mean 'train'?",
    ),
    (["train", "--dta", "x"], "unknown option --dta; did you mean '--data'?"),
    (["train", "--data"], "argument --data: expected one argument"),
    (
        ["train", "--data", "nowhere"],
        "there is no folder 'nowhere' and no embedded data set of that name (digits)",
    ),
    (["train", "--data", "digit"], "did you mean 'digits'?"),
    (["train", "--data", "file.txt"], "is a file, expected a folder of images"),
    (["train", "--data", "empty"], "there is no image in"),
    (["train", "--data", "broken"], "the only image in"),
    (["train", "--domain", "visio"], "unknown domain 'visio'"),
    (["train", "--objective", "mimm"], "did you mean 'mim'?"),
    (["train", "train.max_stepz=3"], "did you mean 'train.max_steps'?"),
    (["train", "train.max_steps=three"], "expected a whole number, got three"),
    (["train", "train.max_steps=0"], "train.max_steps: expected -1 or a number of updates above 0, got 0"),
    (["train", "data.channels=3", "model.in_chans=1"], "data.channels=3 but model.in_chans=1"),
    (["train", "model.num_heads=[5, 4]"], "num_heads: expected divisors"),
    (
        ["train", "model.patch_size=2", "objective.mask_patch_size=3"],
        "expected a multiple of model.patch_size",
    ),
    (["train", "--config", "nope.yaml"], "there is no such file"),
    (["train", "--config", "full"], "is a folder, expected a YAML file such as full/config.yaml"),
    (["train", "train.num_train_epochs=1e300", "train.max_steps=-1"], "means 2.67e+301 updates, more than"),
    (
        ["train", "train.max_steps=99999999999999999999"],
        "train.max_steps=1e+20 means 1e+20 updates, more than",
    ),
    (["train", "train.max_steps=1e30"], "train.max_steps: expected a"),
    (
        ["train", "train.per_device_train_batch_size=1000000000000"],
        "1,000,000,000,000 samples an update are more",
    ),
    (["train", "train.dataloader_num_workers=100000"], "expected a value less than or equal to 1024"),
    (["train", "model.depths=[]"], "depths: expected the number of blocks of each stage"),
    (["train", "data.streaming=true"], "data.path: 'digits' is embedded and in memory at once"),
    (["train", "data.split=test"], "data.split=test is for parquet files and data sets with splits"),
    (["train", "train.num_train_epochs=.inf", "train.max_steps=-1"], "expected a finite number, got .inf"),
    (["train", "train.learning_rate=inf"], "train.learning_rate: expected a finite number, got inf"),
    (["train", "--data", ""], "--data is empty: give it a value or leave it out"),
    (["train", "--output", ""], "--output is empty: give it a value or leave it out"),
    (["train", "data.path=''"], "data.path: expected a word or text, got ''"),
    (["train", "data.image_size=[8, 8, 8]"], "a list of another length, got [8, 8, 8]"),
    (["train", "data.group=[a-z]+/x]"], "put text in quotes, as in 'data.group="),
    (["train", "data.path=empty #2"], "there is no folder 'empty #2'"),
    (["train", "data.std=[0]"], "unitrans: data.std must be finite and positive"),
    (["train", "--output", "full"], "--output full exists and is not empty"),
    (["train", "--resume"], "there is no run under"),
    (["train", "--resume", "full"], "it holds no config.yaml"),
    (["train", "--resume", "full", "--data", "x"], "leave --data out"),
    (["train", "--resume", "train.seed=1"], "leave train.seed=1 out"),
    (["train", "--resume", "full", "--dry-run"], "--resume and --dry-run exclude each other"),
    (["doctor", "--verbose"], "unknown option --verbose"),
    (["doctor", "now"], "unknown option now"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG]
)
def test_wrong_invocations(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file.txt").write_text("text")
    for folder in ("empty", "full", "broken"):
        Path(folder).mkdir()
    Path("full/file").write_text("text")
    Path("broken/image.png").write_bytes(b"this is no image")
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("unitrans: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes."),
         "unitrans: out of memory (40000000000 bytes wanted): lower train.per_device_train_batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
         "unitrans: out of memory (2.00 GiB wanted): lower"),
        (MemoryError(), "unitrans: out of memory: lower"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_exit_1(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("unitrans.training.run.introduce", full)
    assert main(["train", *SMALL]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(sentence) and printed.count("\n") == 1


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("unitrans.training.run.introduce", bug)
    with pytest.raises(TypeError, match="a bug"):
        main(["train", *SMALL])


def test_a_loss_that_is_not_a_number_is_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rates that no network survives, and no clipping.
    wild = ["train.learning_rate=1e30", "train.max_grad_norm=0", "train.max_steps=50", "train.warmup_steps=0"]
    assert main(["train", *SMALL, *wild]) == 1
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert last.startswith("unitrans: update ") and "; learning rate 9.99e+29; samples: digits/" in last
    assert "Traceback" not in error


def rows(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stop(run: Path, arguments: list[str], number: int, steps: int) -> tuple[int, str, str]:
    """Runs a command until its log has reached ``steps``, then sends the signal."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*ENTRY, *arguments], env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        end = time.monotonic() + 100
        while max((row["step"] for row in rows(run)), default=0) < steps:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "the run does not get going"
            time.sleep(0.1)
        os.killpg(process.pid, number)  # as a terminal and a scheduler do: the loader's workers get it too
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, out, err


def test_sigterm_and_ctrl_c_save_and_the_printed_command_goes_on() -> None:
    run = Path("runs/vision-mim-1")
    settings = [*SMALL, "train.max_steps=1000000", "train.logging_steps=1", "train.eval_steps=1000000"]
    settings += ["train.dataloader_num_workers=1"]
    code, out, err = stop(run, ["train", *settings], signal.SIGTERM, 3)
    assert code == 143, err
    assert "SIGTERM: finishing this update" in err and "Traceback" not in err
    assert out.splitlines()[-1] == "  unitrans train --resume runs/vision-mim-1"
    first = int((run / "checkpoints" / "latest").resolve().name.removeprefix("step-"))
    assert first >= 3
    code, out, err = stop(run, out.splitlines()[-1].split()[1:], signal.SIGINT, first + 3)
    assert code == 130, err
    assert "Traceback" not in err
    second = int((run / "checkpoints" / "latest").resolve().name.removeprefix("step-"))
    assert second >= first + 3
    assert [row["step"] for row in rows(run)] == list(range(1, second + 1))


def test_a_bug_is_no_sentence_even_where_errors_are_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError that an operation of ours causes shows where; one that was written for users is a sentence."""

    def bug(*_: object) -> None:
        first, second = [1]  # type: ignore[misc]
        print(first, second)

    bug.__globals__["__name__"] = "unitrans.stand_in"
    monkeypatch.setattr("unitrans.training.session.make_sampler", bug)
    try:
        with pytest.raises(ValueError, match="not enough values"):
            main(["train", *SMALL])
    finally:
        bug.__globals__["__name__"] = __name__


def test_debug_shows_where_a_sentence_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["train", "data.path=no_such_folder"]
    assert main(wrong) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    for arguments in (["--debug", *wrong], [*wrong, "--debug"]):
        assert main(arguments) == 2
        printed = capsys.readouterr().err
        assert printed.endswith(sentence) and "Traceback (most recent call last)" in printed
        assert "hub_builder(" in printed


def test_onednn_keeps_few_primitives_unless_it_is_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, kept in ((None, "64"), ("7", "7")):
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", given or "")
        if given is None:
            monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
        assert main(["predict"]) == 2
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == kept
