"""What the tests of texts share: sentences, tables, opened sources."""

from pathlib import Path
from typing import Any

import numpy as np

from unitrans.domains.text import TextDomain
from unitrans.domains.text.config import DataConfig
from unitrans.models import BertConfig

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_position_embeddings": 24}
WORDS = (
    "the cat sat on a mat and dog ran over hill into town where people live in small houses of stone".split()
)


def sentences(count: int = 60, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 50))) + f" {number}." for number in range(count)]


def opened(path: Path, config: Any = None, kinds: Any = (), seed: int = 0, **data: Any) -> Any:
    config = config or BertConfig(**SMALL)
    settings = {"path": str(path), "document": "line", "vocab_size": 300, "validation": 0.2} | data
    return *TextDomain().open(DataConfig(**settings), config, seed, kinds), config


def everything(source: Any) -> list[dict[str, Any]]:
    return [source.load(index) for index in range(len(source))]


def table(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "table"))
    return tmp_path / "table"
