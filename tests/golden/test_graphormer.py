"""Graphormer against the published code: from raw graphs and from its own inputs, outputs, every layer, gradients.

Cases are found by what their meta.json says, so that further ones of the family are run as they come.
"""

import functools
import json
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN

from unitrans.models import Graphormer
from unitrans.models.convert import config_from, export_tensors, export_weights, load_weights
from unitrans.nn import block
from unitrans.ops import pair_bias as pair_bias_module


def cases() -> list[str]:
    """Folders of the family that hold one forward and backward."""
    found = []
    for path in sorted(GOLDEN.glob("*/meta.json")):
        meta = json.loads(path.read_text())
        if "raphormer" in meta.get("reference", "") and "training" not in meta:
            found.append(path.parent.name)
    return found or ["08a_graphormer_ms"]


def version_of(case) -> str:
    if any(name.startswith("encoder.graph_encoder.") for name in case.weights):
        return "v2"
    return "v1-downstream" if "downstream_out_proj.weight" in case.weights else "v1"


def model_of(case) -> Graphormer:
    version = version_of(case)
    arguments = {k: v for k, v in case.meta["constructor"].items() if k != "cls"}
    changes: dict[str, Any] = {"drop_rate": 0.0, "attn_drop_rate": 0.0, "act_drop_rate": 0.0}
    if version != "v2":
        changes["num_outputs"] = case.expected["out.logits"].shape[1]
        for name, field in (("atom_encoder", "num_atoms"), ("edge_encoder", "num_edges")):
            changes[field] = case.weights[f"{name}.weight"].shape[0] - 1
    model = Graphormer(config_from(version[:2], arguments, **changes)).eval()
    report = load_weights(model, case.weights, version)
    assert not report.missing and not report.unexpected and not report.resized
    return model


def raw_inputs(case, model) -> tuple[torch.Tensor, Any]:
    """The graphs as they were before any preprocessing."""
    raw, count = case.expected, 0
    while f"raw.{count}.edge_index" in raw:
        count += 1
    of = [
        {key: raw[f"raw.{g}.{key}"] for key in ("edge_index", "edge_attr", "node_attr")} for g in range(count)
    ]
    nodes = torch.cat([graph["node_attr"] for graph in of])
    plans = model.config.plans(
        [len(graph["node_attr"]) for graph in of],
        [graph["edge_index"].shape[1] for graph in of],
        torch.cat([graph["edge_index"] for graph in of], dim=1),
        torch.cat([graph["edge_attr"] for graph in of]),
    )
    return nodes, plans


def padded(rows: torch.Tensor, plans, like: torch.Tensor) -> torch.Tensor:
    """Rows [T', C] -> [B, S, C], at padding what is expected there, which means nothing."""
    out = like.clone()
    for g, part in enumerate(rows.split(plans.groups.cu_seqlens.diff().tolist())):
        out[g, : len(part)] = part
    return out


def padded_planes(planes: torch.Tensor, plans, like: torch.Tensor) -> torch.Tensor:
    """Planes [N, P] -> [B, N, S, S], the same."""
    out, start = like.clone(), 0
    for g, side in enumerate(plans.groups.cu_seqlens.diff().tolist()):
        part = planes[:, start : start + side * side].view(-1, side, side)
        out[g, :, :side, :side] = part
        start += side * side
    return out


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("inputs", ["raw", "official"])
@pytest.mark.parametrize("name", cases())
def test_graphormer(golden, monkeypatch, name: str, inputs: str, backend: str) -> None:
    call = functools.partial(block.attention_qkvpacked, backend=backend)
    monkeypatch.setattr(block, "attention_qkvpacked", call)
    op = functools.partial(pair_bias_module.pair_bias, backend=backend)
    monkeypatch.setattr("unitrans.nn.graph.pair_bias", op)
    case = golden(name)
    model, version = model_of(case), version_of(case)
    encoder, want = model.encoder, case.expected
    nodes, plans = raw_inputs(case, model) if inputs == "raw" else encoder.packed(case.inputs, None)
    embedded = encoder.embed_nodes(nodes, plans)
    x = encoder.embed_drop(encoder.embed_norm(embedded))
    states = [x, *encoder.encode_blocks(x, plans)]
    last = encoder.norm(states[-1])
    logits = model.predict(encoder.pool(last, plans))
    loss = (logits - case.inputs["y"].view_as(logits)).abs().sum()
    loss.backward()

    got = {"out.logits": logits, "out.loss": loss}
    got["out.graph_rep"] = states[-1][plans.groups.cu_seqlens[:-1].long()]
    found = {"out.node_feature": embedded}
    found["out.token_logits"] = model.predict(encoder.pooler(last))
    found |= {f"out.inner_state_{n}_TBC": state for n, state in enumerate(states)}
    for key, rows in found.items():
        if key in want:
            like = want[key].transpose(0, 1) if key.endswith("TBC") else want[key]
            full = padded(rows, plans, like)
            got[key] = full.transpose(0, 1) if key.endswith("TBC") else full
    with torch.no_grad():
        planes = padded_planes(encoder.bias(plans), plans, want["out.attn_bias_full"])
    assert torch.equal(planes.isinf(), want["out.attn_bias_full"].isinf())
    finite = ~planes.isinf()
    want["out.attn_bias_full"] = want["out.attn_bias_full"][finite]
    got["out.attn_bias_full"] = planes[finite]
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    exported = {f"grad.{n}": g for n, g in export_tensors(model, grads, version).items()}
    got |= {n: g for n, g in exported.items() if n in want}
    missing = {n for n in want if n.startswith("grad.")} - set(got)
    assert not missing, "some gradients were not compared"
    got = {n: x for n, x in got.items() if n in want}
    assert len(got) > 10
    case.check(got)


@pytest.mark.parametrize("name", cases())
def test_features(golden, name: str) -> None:
    """Degrees, distances and the edges on paths, as the published preprocessing gives them for each graph."""
    case = golden(name)
    model = model_of(case)
    _, plans = raw_inputs(case, model)
    pairs, first, row = plans.pairs, 0, 0
    for g, n in enumerate(pairs.cu_nodes.diff().tolist()):
        item = {key: case.expected[f"item.{g}.{key}"] for key in ("in_degree", "spatial_pos")}
        assert torch.equal(pairs.degree[first : first + n], item["in_degree"])
        assert torch.equal(pairs.distance[row : row + n * n].view(n, n).long(), item["spatial_pos"])
        edges = case.expected.get(f"item.{g}.edge_input_first12")
        if edges is not None and model.config.multi_hop:
            hops = pairs.hops[row : row + n * n].view(n, n, -1)
            width = min(hops.shape[2], edges.shape[2])
            offsets = torch.arange(edges.shape[3]) * model.config.feature_offset
            ids = torch.cat([torch.full((1, edges.shape[3]), -1), pairs.edges + 2 + offsets])
            assert torch.equal(ids[hops[:, :, :width].long()], edges[:, :, :width].long())
        first, row = first + n, row + n * n


@pytest.mark.parametrize("name", cases())
def test_names_of_transformers(golden, name: str) -> None:
    """Files of transformers 4.x hold the same tensors under other names, without what is never used."""
    case = golden(name)
    if "hf4_key_map" not in case.meta:
        pytest.skip("this case was not compared with transformers")
    renamed = {}
    for key, tensor in case.weights.items():
        meant = key
        for theirs, new in case.meta["hf4_key_map"].items():
            if key == theirs or (theirs.endswith("*") and key.startswith(theirs[:-1])):
                meant = new
        if meant is not None:
            renamed[meant] = tensor
    model = model_of(case)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    report = load_weights(model, renamed, "hf4")
    assert not report.missing and not report.unexpected and len(renamed) < len(case.weights)
    exported = export_weights(model, "v2")
    for key, tensor in case.weights.items():
        if "masked_lm_pooler" not in key:
            assert torch.equal(exported[key].reshape(tensor.shape), tensor), key


@pytest.mark.parametrize("name", cases())
def test_weights_come_back(golden, name: str) -> None:
    """Every published parameter, its row of padding included, exported as it was loaded."""
    case = golden(name)
    exported = export_weights(model_of(case), version_of(case))
    assert set(exported) == set(case.weights)
    for key, value in case.weights.items():
        assert torch.equal(exported[key].reshape(value.shape), value), key
