"""The ``data`` section of a graph run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from unitrans.data.labels import check_columns
from unitrans.data.table import DELIMITER, ENCODING, HEADER, MISSING
from unitrans.domains.graph.splits import SplitKind


class DataConfig(BaseModel):
    """Where the graphs are, what is predicted of them, and how they are split."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        "nci",
        min_length=1,
        description="A table of molecules (.csv, .tsv, .jsonl, .parquet, .xlsx, .smi, .txt; .gz and .zst too), an SDF "
        "file, a list of PyG Data objects saved with torch.save (.pt), a data set of PyG or OGB by name, with its "
        "folder (pyg:ZINC:ROOT, ogbg-molhiv:ROOT, pcqm4mv2:ROOT), or the embedded one (nci: 5,000 molecules of the NCI "
        "that come with RDKit, target qed).",
    )
    target: str | list[str] | None = Field(
        None,
        description="The column, or columns (a,b), to predict, --target on the command line. An empty cell is a "
        "missing label. null: the only column that can be one.",
    )
    smiles_column: str | None = Field(
        None,
        description="The column with SMILES or InChI. null: the one named like it (smiles, SMILES, InChI, ...).",
    )
    delimiter: str | None = DELIMITER
    header: bool | None = HEADER
    encoding: str = ENCODING
    missing: list[str] | None = MISSING
    split: SplitKind | None = Field(
        None,
        description="How molecules are held out. null: official where the data set has a split, else random; random; "
        "scaffold (Bemis-Murcko, balanced as in chemprop); scaffold_deepchem (the largest scaffolds are trained on, as "
        "in DeepChem and MoleculeNet); column (see split_column); official (that of a PyG or OGB data set). The same "
        "molecule is never on two sides.",
    )
    split_column: str = Field(
        "split",
        min_length=1,
        description="With split=column: the column that says train, validation or test.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        description="Which random or scaffold split. Not train.seed: runs with other seeds share a split.",
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="The share of molecules that choose the checkpoint. 0: none."
    )
    test: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The share of molecules that judge the chosen checkpoint, once, at the end.",
    )
    max_nodes: int = Field(
        128,
        ge=1,
        description="Larger molecules are left out and listed with the reason, as unreadable ones are.",
    )
    largest_fragment: bool = Field(
        False,
        description="true: of a molecule in several parts (salts) the one with most heavy atoms is kept.",
    )
    atom_order: Literal["canonical", "given"] = Field(
        "canonical",
        description="canonical: molecules are read as their canonical SMILES spells them, so that every spelling of "
        "one gives the same answer. given: atoms stand as in the data (OGB's graphs, and runs of earlier versions).",
    )

    @field_validator("target")
    @classmethod
    def _different(cls, value: str | list[str] | None) -> str | list[str] | None:
        return check_columns(value)
