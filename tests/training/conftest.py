"""A very small run: digits, one head of eight channels, a few samples an update."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unitrans.training.config import RunConfig, resolve

TINY = (
    "model.embed_dim=8",
    "model.depths=[2, 2]",
    "model.num_heads=[1, 2]",
    "model.mlp_ratio=2.0",
    "train.per_device_train_batch_size=8",
    "train.per_device_eval_batch_size=64",
    "train.max_steps=6",
    "train.eval_steps=3",
    "train.save_steps=3",
    "train.logging_steps=2",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> Callable[..., RunConfig]:
    """tiny("key=value", ...) is the configuration of a run of six small updates."""

    def make(*settings: str, **flags: Any) -> RunConfig:
        given = {setting.partition("=")[0] for setting in settings}
        base = [setting for setting in TINY if setting.partition("=")[0] not in given]
        return resolve(settings=[*base, *settings], **flags)

    return make


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
