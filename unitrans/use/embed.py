"""What ``unitrans embed`` does: the encoder's row for every sample, as a matrix or a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from unitrans.errors import ConfigError
from unitrans.use.predict import Trained
from unitrans.use.rows import opened, samples_of
from unitrans.use.whole import writing

SUFFIXES = (".npy", ".parquet")


def embed(
    checkpoint: str,
    inputs: Sequence[str],
    output: Path,
    *,
    batch_size: int,
    column: str | None,
    stdin: TextIO,
    say: Callable[[str], None],
    files: str | None = None,
    image_size: int | None = None,
) -> int:
    """Writes the pooled vector of every row of the inputs, in their order.

    Args:
        checkpoint: a run folder or a checkpoint, of any objective.
        inputs, column: as for ``unitrans predict``.
        output: .npy (float32 [n, C], rows of NaN where a sample cannot be read) or .parquet (the columns of the input,
            `embedding` and `error`).
        batch_size: rows that are computed together.
        files, image_size: see `Trained`.

    Returns:
        How many rows have no embedding.

    Raises:
        ConfigError: a file of another kind, or what `Trained` and `opened` raise.
    """
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output}: expected a name that ends in {' or '.join(SUFFIXES)}")
    trained = Trained(checkpoint, files=files, image_size=image_size)
    for note in trained.notes:
        say(note)
    width = int(trained.models[0].config.encoder_config.num_features)
    vectors: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    errors: list[str] = []
    table, read = opened(trained.domain, trained.reading, inputs, column, stdin, trained.model_config)
    rows = table.rows()
    while chunk := list(itertools.islice(rows, batch_size)):
        good, places, reasons = samples_of(chunk, read)
        block = np.full((len(chunk), width), np.nan, dtype=np.float32)
        if good:
            block[places] = trained.embeddings(good)
        vectors.append(block)
        errors += reasons
        records += [{} if isinstance(record, str) else record for record in chunk]
    matrix = np.concatenate(vectors) if vectors else np.zeros((0, width), dtype=np.float32)
    with writing(f"--output {output}"):
        _write(output, matrix, table.names, records, errors)
    failed = [(number, reason) for number, reason in enumerate(errors, start=1) if reason]
    for number, reason in failed[:5]:
        say(f"row {number:,} has no embedding: {reason}")
    if len(failed) > 5:
        say(f"{len(failed) - 5:,} more rows have none")
    return len(failed)


def _write(
    output: Path,
    matrix: np.ndarray,
    names: Sequence[str],
    records: Sequence[dict[str, Any]],
    errors: Sequence[str],
) -> None:
    if output.suffix == ".npy":
        np.save(output, matrix)
        return
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {
        f"{name}_given" if name in ("embedding", "error") else name: pa.array([r.get(name) for r in records])
        for name in names
    }
    rows = pa.array([None if error else row for row, error in zip(matrix.tolist(), errors, strict=True)],
                    type=pa.list_(pa.float32()))  # fmt: skip
    columns |= {"embedding": rows, "error": pa.array([error or None for error in errors], type=pa.string())}
    parquet.write_table(pa.table(columns), output)
