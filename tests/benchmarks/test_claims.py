"""The claims of docs/claims.md: all ways to attend agree, runs of every kind work, the tables are those printed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import claims, sliding
from benchmarks.runs import read_rows

ROOT = Path(__file__).parents[2]


def test_all_ways_to_slide_agree() -> None:
    """Outputs and gradients of windows, and of sliding windows, are those of the core."""
    qkv, bias = sliding.inputs(14, 2, 2)
    found = {}
    gradient = torch.randn(2, 14, 14, 2, 32, generator=torch.Generator().manual_seed(1))
    for name, (kind, attend) in sliding.sides(14, 2).items():
        out = attend(qkv, bias[kind])
        found[name] = (out, *torch.autograd.grad(out, [qkv, bias[kind]], gradient))
    for what in ("windows", "shifted windows", "sliding"):
        same = [
            name for name in found if name.split(", ")[1].split(" by")[0].split(" as")[0].startswith(what)
        ]
        assert len(same) > 1 and same[0].startswith("unitrans")
        for name in same[1:]:
            for ours, theirs in zip(found[same[0]], found[name], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_are_timed_and_printed(tmp_path: Path) -> None:
    sliding.measure(tmp_path / "windows.jsonl", 0.01, {3: (14, 1)})
    text = claims.table(read_rows(tmp_path / "windows.jsonl"))
    assert "| unitrans, shifted windows | **1.00** (1.00-1.00) |" in text
    assert "| stage 3, forward + backward |" in text and "dense mask" in text


def texts(folder: Path) -> list[str]:
    words = "red green blue black white".split()
    lines = (" ".join(words[(n * k + k) % 5] for k in range(8)) for n in range(60))
    (folder / "text.txt").write_text("\n".join(lines))
    return [
        f"data.path={folder / 'text.txt'}",
        "data.document=line",
        "data.validation=0.2",
        "data.vocab_size=300",
    ]


def molecules(folder: Path) -> list[str]:
    rows = [f"{'C' * (n % 7 + 1)}{'NOF'[n % 3]}{'C' * (n // 7)},{n}" for n in range(40)]
    (folder / "m.csv").write_text("\n".join(["smiles,y", *rows]))
    return [f"data.path={folder / 'm.csv'}", "train.num_train_epochs=1"]


@pytest.mark.parametrize(
    ("name", "arm", "data"),
    [
        ("mask-pixels", "75% of 2 px", lambda _: ["data.validation=0.5"]),
        ("mask-words", "40%", texts),
        ("prior-images", "no hierarchy", None),
        ("prior-atoms", "none of them", molecules),
    ],
)
def test_a_run_of_every_claim(name, arm, data, tmp_path: Path) -> None:
    """Two updates of the base and of an arm; what is in the file is not repeated; a table comes out."""
    if data is molecules:
        pytest.importorskip("rdkit")
    settings = data(tmp_path) if data else []
    settings += [] if data is molecules else ["train.max_steps=2"]
    output, base = tmp_path / "rows.jsonl", claims.CLAIMS[name].base
    for _ in range(2):
        claims.measure(name, [0], settings, output, [base, arm])
    rows = read_rows(output)
    assert [row["run"] for row in rows] == [base, arm]
    assert rows[0]["operations"] > 0 and rows[0]["predictors"]
    text = claims.table(rows)
    assert f"| {arm} | **{rows[1][claims.CLAIMS[name].figure]:.4f}**" in text and "one seed" in text


def test_arms_of_images_cost_the_same() -> None:
    """What is said to be at equal operations is, within 10 %; windows as large as the map cost more."""
    claim = claims.CLAIMS["prior-images"]
    found = {
        arm: claims.operations(claims.open_new_session(claims.configured(claim, arm, 0, [])))
        for arm in claim.arms
    }
    assert 1.1 < found.pop("no windows (global)") / found["Swin"] < 1.2
    assert all(abs(value / found["Swin"] - 1) < 0.1 for value in found.values()), found


RESULTS = sorted(ROOT.glob("benchmarks/results/claims_*.jsonl"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_tables_are_those_of_the_results(file: Path) -> None:
    assert claims.table(read_rows(file)).strip() in (ROOT / "docs/claims.md").read_text()


def test_intervals_are_those_of_student() -> None:
    import numpy as np

    assert (
        claims.difference(np.array([1.0, 2.0, 3.0]), np.zeros(3)) == "+2.0000 +- 2.4841, no difference found"
    )
    assert claims.difference(np.array([1.0, 1.1, 0.9]), np.zeros(3)) == "+1.0000 +- 0.2484"
    assert json.dumps(claims.difference(np.array([1.0]), np.zeros(1))) == '"+1.0000 (one seed)"'
