"""Graphs: molecules from tables and SDF files, data sets of PyG and OGB."""

from unitrans.domains.graph.domain import GraphDomain

__all__ = ["GraphDomain"]
