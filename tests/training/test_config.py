"""Precedence, round trips, and one clear sentence for everything that can be given wrong."""

import dataclasses
from pathlib import Path

import pytest
from transformers import TrainingArguments

from unitrans.errors import ConfigError
from unitrans.objectives import Labels
from unitrans.training import yaml12
from unitrans.training.arguments import TrainConfig, refusal
from unitrans.training.config import resolve, shipped_configurations
from unitrans.training.session import accumulation_steps


def test_settings_beat_the_file_and_the_file_beats_the_defaults(tmp_path: Path) -> None:
    default = resolve()
    assert default.domain == "vision" and default.data["path"] == "digits" and default.model["name"] == "swin"
    file = tmp_path / "my.yaml"
    file.write_text("train:\n  learning_rate: 3e-3\n  max_steps: 7\nmodel: {embed_dim: 8}\n")
    config = resolve(config=str(file), settings=["train.max_steps=9"])
    assert (config.train["max_steps"], config.train["learning_rate"], config.model["embed_dim"]) == (
        9,
        3e-3,
        8,
    )
    assert config.train["weight_decay"] == default.train["weight_decay"]


def test_the_defaults_follow_the_data(tmp_path: Path) -> None:
    photos = resolve(data=str(tmp_path))
    assert photos.model["patch_size"] == 4 and photos.model["image_size"] == photos.data["image_size"] == 192
    assert photos.objective["mask_patch_size"] == 32
    file = tmp_path / "my.yaml"
    file.write_text(f"data: {{path: {tmp_path}}}\n")
    assert resolve(config=str(file)) == photos
    assert resolve(settings=[f"data.path={tmp_path}"]) == photos


def test_folders_are_written_down_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    assert resolve(data="photos").data["path"] == str(tmp_path / "photos")
    assert resolve(data="digits").data["path"] == "digits"
    assert resolve(data="./digits").data["path"] == str(tmp_path / "digits")


def test_channels_and_size_of_the_model_follow_the_data() -> None:
    config = resolve(settings=["data.channels=3", "data.image_size=[8, 16]"])
    assert config.model["in_chans"] == 3 and config.model["image_size"] == [8, 16]
    assert resolve(settings=["model.in_chans=3"]).model["in_chans"] == 3


@pytest.mark.parametrize("name", sorted(shipped_configurations()))
def test_shipped_configurations_are_complete(name: str) -> None:
    config = resolve(config=name)
    kinds = {
        "class": Labels("class", ("cat", "dog")),
        "token": Labels("token", ("O", "NAME")),
        "value": Labels("value", ("x",), mean=(0.0,), std=(1.0,)),
    }
    wanted = config.objective_class().label_kinds
    if "text" in config.domain:  # in a run it is the tokenizer's
        (config.model if config.domain == "text" else config.model["text"])["mask_token_id"] = 4
    config.make_objective(config.model_config(), kinds[wanted[0]] if wanted else None)


def test_accumulation_follows_from_the_global_batch() -> None:
    train = resolve(settings=["train.global_batch_size=96", "train.per_device_train_batch_size=8"]).train
    assert [accumulation_steps(train, processes) for processes in (1, 2, 3, 12)] == [12, 6, 4, 1]
    with pytest.raises(ConfigError, match=r"expected a multiple of .* = 8 x 5, got 96"):
        accumulation_steps(train, 5)
    with pytest.raises(
        ConfigError, match=r"needs 6 micro-batches .*gradient_accumulation_steps=3: leave that at 1"
    ):
        accumulation_steps(train | {"gradient_accumulation_steps": 3}, 2)
    assert accumulation_steps(train | {"global_batch_size": None, "gradient_accumulation_steps": 3}, 2) == 3


@pytest.mark.parametrize(
    "settings", [[], ["train.seed=5", "model.window_size=2", "data.crop_scale=[0.5, 1]"]]
)
def test_the_printed_configuration_is_explained_and_reads_back(settings: list[str], tmp_path: Path) -> None:
    config = resolve(settings=settings)
    text = config.to_yaml()
    assert yaml12.load(text) == config.to_dict()
    file = tmp_path / "printed.yaml"
    file.write_text(text)
    assert resolve(config=str(file)) == config
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            assert lines[number - 1].startswith("  # ") and "(not described)" not in lines[number - 1], line


def test_another_objective_or_model_does_not_inherit_keys() -> None:
    other = resolve(settings=["model=vit"]).model
    assert other["embed_dim"] == 768 and "depths" not in other
    assert resolve(settings=["model=swin"]) == resolve()


def test_every_training_argument_is_honoured_or_refused_with_a_reason() -> None:
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    honoured = fields & set(TrainConfig.model_fields)
    assert {"max_steps", "learning_rate", "per_device_train_batch_size", "seed", "bf16"} <= honoured
    assert all(refusal(name) for name in fields - honoured)
    assert refusal("no_such_name") is None
    assert "train.bf16" in str(refusal("fp16"))
    help_of = {field.name: field.metadata["help"] for field in dataclasses.fields(TrainingArguments)}
    for name in honoured - {"report_to"}:  # with names of its own
        described = str(TrainConfig.model_fields[name].description)
        assert described.startswith(" ".join(help_of[name].replace("%%", "%").split()))


WRONG = [
    (["train.max_stepz=3"], "unknown key train.max_stepz; did you mean 'train.max_steps'"),
    (["max_steps=3"], "unknown key max_steps; did you mean 'train.max_steps'"),
    (["tran.max_steps=3"], "did you mean 'train.max_steps'"),
    (["train.max_steps=abc"], "train.max_steps: expected a whole number, got abc"),
    (["train.max_steps=2.5"], "train.max_steps: expected a whole number, got 2.5"),
    (["train.max_steps=true"], "train.max_steps: expected a number, got true"),
    (["train.max_steps="], "train.max_steps: expected a whole number, got null"),
    (["train.learning_rate=fast"], "train.learning_rate: expected a number, got fast"),
    (["train.learning_rate=-1"], "train.learning_rate: expected a value greater than or equal to 0, got -1"),
    (["train.adam_beta1=1"], "train.adam_beta1: expected a value less than 1, got 1"),
    (["train.per_device_train_batch_size=0"], "greater than or equal to 1, got 0"),
    (["train.eval_steps=2.5"], "expected a whole number of updates, or a part of the run"),
    (["train.bf16=perhaps"], "train.bf16: expected true or false, got perhaps"),
    (["train.lr_scheduler_type=cosin"], "did you mean 'cosine'"),
    (["train.lr_scheduler_type=multistep"], "milestones: expected the updates"),
    (["train.lr_scheduler_kwargs.gamma=0.1"], "only for train.lr_scheduler_type=multistep"),
    (
        ["train.lr_scheduler_type=multistep", "train.lr_scheduler_kwargs={milestones: [3], gama: 1}"],
        "did you mean 'train.lr_scheduler_kwargs.gamma'",
    ),
    (
        ["train.output_dir=x"],
        "train.output_dir of TrainingArguments is not taken: the run folder is chosen by",
    ),
    (["train.fp16=true"], "use train.bf16"),
    (["train.optim=sgd"], "the optimizer is AdamW"),
    (["train=3"], "train is a section"),
    (["train.seed=1", "train.seed=2"], "train.seed is given twice"),
    (["model.depths=2,2"], "model.depths: expected a list, got 2,2"),
    (["model.depths=[2, x]"], "model.depths: expected a whole number, got [2, x]"),
    (["model.depths=[2"], "cannot be read"),
    (["model.embed_dims=8"], "did you mean 'model.embed_dim'"),
    (
        ["model.name=swim"],
        "unknown model 'swim': expected one of bert, gpt2, graphormer, joint, swin, swinv2, vit; did you mean 'swin'",
    ),
    (["model.name=3"], "model.name: expected the name of a model, got 3"),
    (["objective.mask_ratio=2"], "objective.mask_ratio: expected a value less than 1, got 2"),
    (["objective.name=mimm"], "did you mean 'mim'"),
    (["objective.mask_size=2"], "unknown key objective.mask_size"),
    (["data.channels=0"], "data.channels: expected a value greater than or equal to 1, got 0"),
    (["data.validation=5"], "for 5 % write 0.05"),
    (["data.validation=5%"], "write 5 % as 0.05"),
    (["data.image_size=big"], "data.image_size: expected a whole number or a list, got big"),
    (["domain=visio"], "unknown domain 'visio': expected one of graph, text, vision; did you mean 'vision'"),
    (["foo"], "expected key=value such as train.max_steps=100, got 'foo'"),
    (["=3"], "expected key=value"),
]


@pytest.mark.parametrize(("settings", "sentence"), WRONG, ids=[" ".join(settings) for settings, _ in WRONG])
def test_wrong_settings(settings: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(settings=settings)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message and len(message) < 300


FILES = [
    ("train: {max_steps: 3", "cannot be read as YAML: line 1"),
    ("- 1\n- 2\n", "expected sections (data, model, objective, train), got [1, 2]"),
    ("trian: {max_steps: 3}", "unknown section 'trian'"),
    ("train: 3", "train: expected keys and values, got 3"),
    ("train: {seed: 1, seed: 2}", "the key 'seed' is given twice"),
    ("train: {1: 2}", "a key must be a word, got 1"),
    ("domain: [vision]", "domain: expected a name, got [vision]"),
]


@pytest.mark.parametrize(("text", "sentence"), FILES)
def test_wrong_files(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve(config=str(file))
    assert sentence in str(caught.value) and str(file) in str(caught.value)


def test_wrong_flags(tmp_path: Path) -> None:
    for flags, sentence in (
        ({"config": "nope.yaml"}, "--config nope.yaml: there is no such file"),
        ({"config": "vision-mimm"}, "did you mean 'vision-mim'"),
        ({"config": str(tmp_path)}, "is a folder, expected a YAML file such as"),
        ({"data": "digits", "settings": ["data.path=digits"]}, "--data and data.path= are both given"),
        ({"objective": "mlmm"}, "objective: expected one of 'beit', 'classification', "),
        ({"domain": "audio"}, "unknown domain 'audio'"),
    ):
        with pytest.raises(ConfigError, match=".") as caught:
            resolve(**flags)  # type: ignore[arg-type]
        assert sentence in str(caught.value)


def test_yaml_scalars_are_what_people_mean() -> None:
    for text, value in (
        ("1e-3", 1e-3),
        ("no", "no"),
        ("on", "on"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
    ):
        assert yaml12.load(text) == value
        assert yaml12.load(yaml12.dump_value(value)) == value
    for value in ("1e-3", "true", "null", "", "a: b", "# x", "two\nlines", [1, "x"], {"a": None}, 1e-5, 12):
        assert yaml12.load(yaml12.dump_value(value)) == value
        assert "\n" not in yaml12.dump_value(value)


def test_none_is_none_whatever_lies_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    assert resolve(settings=["data.validation=none"]).data["validation"] == "none"


@pytest.mark.parametrize(
    ("domain", "objective"), [("vision", "mim"), ("text", "mlm"), ("graph", "mgm"), ("vision,graph", "msm")]
)
def test_every_domain_hides_and_predicts_by_default(domain: str, objective: str) -> None:
    assert resolve(domain=domain).objective["name"] == objective
