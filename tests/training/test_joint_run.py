"""Runs on several domains: what they leave, going on exactly, weights that join and leave."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update
from unitrans.cli import main
from unitrans.cli.pages.runs import open_runs
from unitrans.cli.pages.training import training_page
from unitrans.errors import ConfigError
from unitrans.training import run as running
from unitrans.training.config import RunConfig, resolve
from unitrans.training.sampler import JointSampler, UpdateSampler, apportion

TRUNK = {
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.mlp_ratio": 2.0,
    "model.layer_norm_eps": 1e-5,
}
TRAIN = {
    "train.max_steps": 4,
    "train.per_device_train_batch_size": 6,
    "train.eval_steps": 2,
    "train.save_steps": 2,
    "train.logging_steps": 1,
}
WORDS = [f"the {a} {b} {c} ." for a in ("red", "old") for b in ("cat", "dog") for c in ("ran", "sat")] * 5


@pytest.fixture
def files(workdir: Path) -> Path:
    """Texts and molecules; images are the digits."""
    (workdir / "corpus.txt").write_text("\n".join(f"{line} {n}" for n, line in enumerate(WORDS)))
    chains = ["C" * n + x for n in range(1, 9) for x in ("O", "N", "Cl", "S")]
    rows = [f"{smiles},{n % 2}" for n, smiles in enumerate(chains)]
    (workdir / "molecules.csv").write_text("\n".join(["smiles,label", *rows]))
    (workdir / "texts.csv").write_text(
        "\n".join(["text,label", *(f"{line} {n},{'cat' in line}" for n, line in enumerate(WORDS))])
    )
    return workdir


def config(domain: str = "vision,text,graph", init: str | None = None, **settings: Any) -> RunConfig:
    names = domain.split(",")
    given: dict[str, Any] = TRUNK | TRAIN if init is None else dict(TRAIN)
    if "text" in names:
        given |= {
            "data.text.path": "corpus.txt",
            "data.text.document": "line",
            "model.text.max_position_embeddings": 16,
        }
        given |= {} if init else {"data.text.vocab_size": 300}
    if "graph" in names:
        given |= {"data.graph.path": "molecules.csv", "data.graph.validation": 0.2}
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(domain=domain, init=init, settings=[f"{k}={json.dumps(v)}" for k, v in given.items()])


def weights(run: Path, which: str = "latest") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / which / "model.safetensors")


def test_a_run_goes_on_exactly_and_reports_every_domain(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"train__gradient_accumulation_steps": 2, "train__per_device_train_batch_size": 3}
    options |= {"model__attn_drop_rate": 0.1, "model__drop_rate": 0.1}
    whole = running.train(config(**options), "whole")
    said = capsys.readouterr().out
    summary = json.loads((whole / "summary.json").read_text())
    for name, figure in (("vision", "l1"), ("text", "accuracy"), ("graph", "node_accuracy")):
        assert f"\n{name}:" in said
        assert figure in summary[name] and summary[name]["predictors"]
    weights_of = config().objective["weights"]
    expected = sum(weight * summary[name]["loss"] for name, weight in weights_of.items())
    assert summary["loss"] == pytest.approx(expected)
    made = {path.name for path in whole.iterdir()}
    assert {
        "reconstructions.png",
        "predictions.html",
        "molecules.png",
        "curves.png",
        "tokenizer.json",
    } <= made
    page = training_page(open_runs(["whole"]))
    assert page.count("data:image/png") == 2 and 'class="sentence"' in page and "is missing" not in page
    assert all(f"{name}, validation part:" in page for name in ("Vision", "Text", "Graph"))

    with dies_in_update(3):
        running.train(config(**options), "part")
    running.resume("part")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(Path("part"))[name]), name


def test_weights_join_a_run_and_leave_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert = {"model.name": "bert", "model.norm": "pre", "model.max_position_embeddings": 16} | TRUNK | TRAIN
    bert |= {"data.document": "line", "data.vocab_size": 300}
    settings = [f"{key}={json.dumps(value)}" for key, value in bert.items()]
    running.train(resolve(domain="text", data="corpus.txt", settings=settings), "text")
    alone = weights(Path("text"), "best")

    still = {"train__learning_rate": 1e-12, "train__min_learning_rate": 0.0, "train__weight_decay": 0.0}
    joined = config("text,graph", init="text", **still)
    assert joined.model["embed_dim"] == 16 and joined.model["depth"] == 2
    running.train(joined, "joint")
    assert "graph start afresh" in capsys.readouterr().out
    both = weights(Path("joint"), "best")
    names = {
        "encoder.parts.text.": "encoder.",
        "encoder.blocks.": "encoder.blocks.",
        "head.heads.text.": "head.",
    }
    came = {
        key: new + key.removeprefix(old) for key in both for old, new in names.items() if key.startswith(old)
    }
    assert set(came.values()) == set(alone)
    for key, name in came.items():
        torch.testing.assert_close(both[key], alone[name], rtol=0, atol=1e-6)

    frozen = [f"{k}={json.dumps(v)}" for k, v in TRAIN.items()] + [
        "train.freeze=encoder",
        "data.validation=0.4",
    ]
    for domain, data in (("text", "texts.csv"), ("graph", "molecules.csv")):
        tuned = resolve(domain=domain, objective="classification", data=data, init="joint", settings=frozen)
        assert tuned.model["norm"] == "pre" and tuned.model["embed_dim"] == 16
        run = running.train(tuned, f"tuned-{domain}")
        own = weights(run)
        for key in own:
            if key.startswith("encoder."):
                rest = key.removeprefix("encoder.")
                there = key if rest.startswith("blocks.") else f"encoder.parts.{domain}.{rest}"
                torch.testing.assert_close(own[key], both[there], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="a model of text, graph and has no part for vision"):
        resolve(domain="vision", init="joint")
    with pytest.raises(ConfigError, match="no part of a run on vision, graph"):
        resolve(domain="vision,graph", init="text")
    assert main(["embed", "--checkpoint", "joint", "texts.csv", "--output", "x.npy"]) == 2
    assert "it is a model of several domains (text, graph)" in capsys.readouterr().err


def test_a_configuration_file_repeats_a_run(files: Path) -> None:
    first = config("graph,vision")
    assert first.domain == "vision,graph" and "text" not in first.model
    Path("run.yaml").write_text(first.to_yaml())
    assert resolve(config="run.yaml").to_dict() == first.to_dict()


@pytest.mark.parametrize(
    ("domain", "settings", "words"),
    [
        ("vision,text", {"model.name": "vit"}, "model.name: for several domains expected joint"),
        ("vision,text", {"model.vision.name": "swin"}, "model.vision.name: expected vit, whose blocks"),
        ("vision,text", {"model.text.depth": 2}, "unknown key model.text.depth"),
        ("vision,text", {"data.graph.path": "x"}, "unknown key data.graph"),
        ("vision,text", {"objective.name": "mlm"}, "objective mlm is for one domain at a time"),
        ("text,text", {}, "expected different names"),
        ("vision", {"objective.name": "msm"}, "objective msm is for several domains"),
        ("vision", {"model.name": "joint"}, "joint is for several domains"),
    ],
)
def test_mistakes_are_one_sentence(domain: str, settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(domain=domain, settings=[f"{key}={value}" for key, value in settings.items()])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.vision=photos", "data.vision: expected keys and values, as in data.vision.path=VALUE, got photos"),
        ("data.text=3", "data.text: expected keys and values"),
        ("model.vision=7", "model.vision: expected keys and values, as in model.vision.name=VALUE, got 7"),
        ("objective.text=[mlm]", "objective.text: expected keys and values"),
        ("data.vision.path=" + "a" * 300, "data.vision.path: 'a+' cannot name a file: File name too long"),
        (r'data.text.path="a\0b"', "data.text.path: .* cannot name a file: it holds a NUL character"),
    ],
)  # fmt: skip
def test_values_that_are_no_sections_or_files(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        resolve(domain="vision,text", settings=[setting])
    assert "\n" not in str(error.value)


def test_data_of_your_own_are_read_as_a_run_on_their_domain_reads_them() -> None:
    alone = resolve(domain="vision", objective="mim", data="photos")
    joint = resolve(domain="vision,text", settings=["data.vision.path=photos", "model.vision=vit"])
    assert joint.data["vision"] == alone.data and joint.objective["vision"] == alone.objective
    assert joint.data["vision"]["image_size"] == 192 and joint.model["vision"]["patch_size"] == 16
    assert joint.data["text"] == resolve(domain="vision,text").data["text"]  # the embedded text
    mae = resolve(domain="vision,text", settings=["data.vision.path=photos", "objective.vision=mae"])
    assert mae.data["vision"] == resolve(domain="vision", objective="mae", data="photos").data
    given = resolve(domain="vision,text", settings=["data.vision.path=photos", "data.vision.image_size=64"])
    assert given.data["vision"] == alone.data | {"image_size": 64}
    assert resolve(domain="vision,text", settings=["model.vision=null"]) == resolve(domain="vision,text")


def test_what_only_the_data_can_tell(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--domain", "text,graph", "--data.text", "corpus.txt", "--data.graph", "none.csv"]
    assert main([*command, "--dry-run"]) == 2
    assert "graph: data.path" in capsys.readouterr().err
    command[-1] = "molecules.csv"
    assert main([*command, "--dry-run", "data.mixing={text: 1000}"]) == 2
    assert "has none of graph: raise its part" in capsys.readouterr().err


def test_the_sampler_gives_every_domain_its_part_and_its_own_order() -> None:
    sizes, mixing = {"vision": 10, "text": 7}, {"vision": 2.0, "text": 1.0}
    options: dict[str, Any] = {
        "per_device_batch_size": 3,
        "accumulation_steps": 2,
        "world_size": 2,
        "seed": 5,
    }
    sampler = JointSampler(sizes, mixing, **options)
    assert sampler.counts == {"vision": 8, "text": 4}
    alone = UpdateSampler(7, per_device_batch_size=4, seed=5)
    for update in (0, 3, 11):
        batch = sampler.global_batch(update)
        assert [(e, i - 10) for e, i in batch if i >= 10] == alone.global_batch(update)
        parts = [key for rank in range(2) for part in sampler.micro_batches(update, rank) for key in part]
        assert sorted(parts) == sorted(batch)
        again = JointSampler(sizes, mixing, **options)
        assert again.micro_batches(update, 1) == sampler.micro_batches(update, 1)
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
