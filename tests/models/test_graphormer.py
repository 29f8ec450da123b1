"""Graphormer against its published formula written down in padded PyTorch, and what it takes as input."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unitrans.models import Graphormer, GraphormerConfig, GraphormerModel
from unitrans.models.convert import config_from, export_tensors, export_weights, load_weights

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.graph_padded import PaddedGraphormer, collate, preprocess

NO_DROP = {"drop_rate": 0.0, "attn_drop_rate": 0.0, "act_drop_rate": 0.0}
SMALL = {"embed_dim": 20, "depth": 2, "num_heads": 2, "num_outputs": 2} | NO_DROP


def random_graphs(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Undirected graphs, one in two parts, one of a single node, with features like those of molecules."""
    rng = np.random.default_rng(seed)
    graphs = []
    for n, bonds in ((6, 7), (9, 6), (1, 0), (12, 14)):
        ends = rng.integers(0, n, (2, bonds))
        ends = ends[:, ends[0] != ends[1]]
        attr = rng.integers(0, 4, (ends.shape[1], 3))
        graphs.append(
            {
                "edge_index": np.concatenate([ends, ends[::-1]], axis=1),
                "edge_attr": np.concatenate([attr, attr]),
                "nodes": rng.integers(0, 9, (n, 4)),
            }
        )
    return graphs


def ours(config: GraphormerConfig, graphs) -> tuple[torch.Tensor, object]:
    plans = config.plans(
        [len(g["nodes"]) for g in graphs],
        [len(g["edge_attr"]) for g in graphs],
        np.concatenate([g["edge_index"] for g in graphs], axis=1),
        np.concatenate([g["edge_attr"] for g in graphs]),
    )
    return torch.from_numpy(np.concatenate([g["nodes"] for g in graphs])), plans


def spread_weights(model: torch.nn.Module) -> None:
    """Parameters far from their initialisation, so that nothing is trivially zero; rows of padding stay zero."""
    torch.manual_seed(1)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            torch.nn.init.normal_(parameter, std=0.3)
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            torch.nn.init.zeros_(module.weight[0])


@pytest.mark.parametrize(
    "fields", [{}, {"norm": "pre"}, {"multi_hop": False}, {"multi_hop_max_dist": 2}, {"spatial_pos_max": 3}]
)
def test_published_formula(fields) -> None:
    config = GraphormerConfig(**SMALL, **fields)
    model = Graphormer(config).double()
    spread_weights(model)
    padded = PaddedGraphormer(config).double()
    padded.load_state_dict(
        {k: v.view_as(padded.state_dict()[k]) for k, v in export_weights(model, "v2").items()}
    )
    graphs = random_graphs()
    batch = collate([preprocess(hops=config.multi_hop_max_dist, **g) for g in graphs])
    for row, g in enumerate(graphs):  # as the published collator does with spatial_pos_max
        n = len(g["nodes"])
        far = batch["spatial_pos"][row, :n, :n] - 1 >= config.spatial_pos_max
        batch["attn_bias"][row, 1 : n + 1, 1 : n + 1][far] = -torch.inf
    want = padded({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
    weight = torch.randn_like(want)
    theirs = torch.autograd.grad((want * weight).sum(), padded.parameters(), allow_unused=True)
    wanted = {n: g for (n, _), g in zip(padded.named_parameters(), theirs, strict=True) if g is not None}
    for nodes, plans in (ours(config, graphs), (batch, None)):
        model.zero_grad()
        logits = model(nodes, plans).logits
        torch.testing.assert_close(logits, want, rtol=1e-10, atol=1e-10)
        (logits * weight).sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        exported = export_tensors(model, grads, "v2")
        assert set(exported) == set(wanted)
        for name, grad in wanted.items():
            torch.testing.assert_close(exported[name].view_as(grad), grad, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("fields", [{}, {"multi_hop": False}, {"spatial_pos_max": 4}])
def test_published_formula_of_version_1(fields) -> None:
    """Pre-norm blocks, no norm of the embedding, a last norm, a linear head, and rows of padding that are not zero,
    so that hops that a path does not have add a constant."""
    v1 = {"norm": "pre", "final_norm": True, "embed_norm": False, "head": "linear"}
    model = Graphormer(GraphormerConfig(**SMALL, **v1, **fields)).double()
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    twin = Graphormer(GraphormerConfig(**SMALL, norm="pre", **fields)).double()
    left = twin.encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    assert all(name.startswith(("embed_norm.", "pooler.", "norm.")) for names in left for name in names)
    padded = PaddedGraphormer(twin.config).double()
    exported = export_weights(twin, "v2").items()
    padded.load_state_dict({k: v.view_as(padded.state_dict()[k]) for k, v in exported})
    padded.encoder.graph_encoder.emb_layer_norm = torch.nn.Identity()
    graphs = random_graphs()
    batch = collate([preprocess(hops=5, **g) for g in graphs])
    for row, g in enumerate(graphs):
        n = len(g["nodes"])
        far = batch["spatial_pos"][row, :n, :n] - 1 >= twin.config.spatial_pos_max
        batch["attn_bias"][row, 1 : n + 1, 1 : n + 1][far] = -torch.inf
    batch["attn_bias"] = batch["attn_bias"].double()
    want = model.out(model.encoder.norm(padded.rows(batch)[:, 0]))
    for nodes, plans in (ours(model.config, graphs), (batch, None)):
        torch.testing.assert_close(model(nodes, plans).logits, want, rtol=1e-10, atol=1e-10)


def test_parameters_as_published() -> None:
    """489K of slim on ZINC (version 1), 47.1M and 48.3M of base on PCQM4M (version 1) and PCQM4Mv2 (version 2)."""

    def count(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    zinc = {"n_layers": 12, "num_heads": 8, "hidden_dim": 80, "ffn_dim": 80, "dataset_name": "ZINC"}
    assert count(Graphormer(config_from("v1", zinc))) == 489_481
    with torch.device("meta"):
        assert count(Graphormer(GraphormerConfig.named("base"))) == 48_268_097
        large = {"n_layers": 12, "num_heads": 32, "hidden_dim": 768, "ffn_dim": 768}
        assert count(Graphormer(config_from("v1", large))) == 47_085_377
        assert GraphormerModel(GraphormerConfig.named("large")).config.depth == 24


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_initialisation(version) -> None:
    fields = {"init": "v1", "norm": "pre", "head": "linear", "final_norm": True, "embed_norm": False}
    model = Graphormer(GraphormerConfig(depth=4, **(fields if version == "v1" else {})))
    std = 0.02 / 4**0.5 if version == "v1" else 0.02
    for block in model.encoder.blocks:
        for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            assert abs(linear.weight.std().item() / std - 1) < 0.1 and not linear.bias.any()
    table = model.encoder.node_embed.atom_encoder.weight
    assert abs(table.std().item() / 0.02 - 1) < 0.05
    for module in (model.encoder.pair_bias.edge_encoder, model.encoder.node_embed.in_degree_encoder):
        assert bool(module.weight[0].any()) == (version == "v1")


@pytest.mark.parametrize("layout", ["v1", "v1-downstream", "v2"])
def test_weights_there_and_back(layout) -> None:
    fields = (
        {} if layout == "v2" else {"head": "linear", "norm": "pre", "final_norm": True, "embed_norm": False}
    )
    config = GraphormerConfig(**SMALL, **fields)
    first, second = Graphormer(config), Graphormer(config)
    spread_weights(first)
    torch.nn.init.normal_(first.encoder.pair_bias.edge_encoder.weight)  # version 1 has values in row 0
    exported = export_weights(first, layout)
    load_weights(second, exported, layout)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    head = {
        "v1": "out_proj.weight",
        "v1-downstream": "downstream_out_proj.weight",
        "v2": "encoder.embed_out.weight",
    }
    assert head[layout] in exported


def test_a_graph_does_not_depend_on_its_batch() -> None:
    config = GraphormerConfig(**SMALL)
    model, graphs = Graphormer(config).eval(), random_graphs()
    together = model(*ours(config, graphs)).logits
    for row, graph in enumerate(graphs):
        alone = model(*ours(config, [graph])).logits[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-6)


def pyg_batch(graphs) -> SimpleNamespace:
    """What a PyG batch looks like."""
    sizes = [len(g["nodes"]) for g in graphs]
    starts = np.cumsum([0, *sizes[:-1]])
    return SimpleNamespace(
        x=torch.from_numpy(np.concatenate([g["nodes"] for g in graphs])),
        edge_index=torch.from_numpy(
            np.concatenate([g["edge_index"] + s for g, s in zip(graphs, starts, strict=True)], axis=1)
        ),
        edge_attr=torch.from_numpy(np.concatenate([g["edge_attr"] for g in graphs])),
        batch=torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(sizes)),
        num_nodes=sum(sizes),
        num_graphs=len(graphs),
    )


def test_pyg_batch() -> None:
    config, graphs = GraphormerConfig(**SMALL), random_graphs()
    model, data = Graphormer(config).eval(), pyg_batch(graphs)
    want = model(*ours(config, graphs)).logits
    assert torch.equal(model(data).logits, want)
    shuffled = torch.randperm(
        data.edge_index.shape[1]
    )  # edges in any order; without ties of paths: single hops
    plain = Graphormer(GraphormerConfig(**SMALL, multi_hop=False)).eval()
    before = plain(data).logits
    data.edge_index, data.edge_attr = data.edge_index[:, shuffled], data.edge_attr[shuffled]
    torch.testing.assert_close(plain(data).logits, before)


def test_real_pyg_objects() -> None:
    geometric = pytest.importorskip("torch_geometric.data", reason="needs the graph extra")
    config, graphs = GraphormerConfig(**SMALL), random_graphs()
    model = Graphormer(config).eval()
    listed = [
        geometric.Data(
            x=torch.from_numpy(g["nodes"]),
            edge_index=torch.from_numpy(g["edge_index"].copy()),
            edge_attr=torch.from_numpy(g["edge_attr"]),
        )
        for g in graphs
    ]
    want = model(*ours(config, graphs)).logits
    assert torch.equal(model(geometric.Batch.from_data_list(listed)).logits, want)
    torch.testing.assert_close(model(listed[0]).logits[0], want[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(28, 4)}, "x: expected categories"),
        ({"x": torch.full((28, 4), 600)}, "nodes: expected categories from 0 to 510, got 600"),
        ({"edge_attr": torch.full((1, 9), 2)}, "edge_attr: expected categories, whole numbers"),
        ({"batch": torch.arange(28).flip(0)}, "batch: expected the nodes of one graph after"),
        ({"batch": torch.arange(28)}, "edge_index: expected edges inside graphs"),
    ],
)
def test_wrong_pyg_batches(change, message) -> None:
    data = pyg_batch(random_graphs())
    for name, value in change.items():
        setattr(data, name, value)
    data.num_graphs = int(data.batch.max()) + 1
    with pytest.raises(ValueError, match=message):
        Graphormer(GraphormerConfig(**SMALL))(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_spatial": 40}, "model.num_spatial: expected at least 512 for nodes without a path"),
        (
            {"num_spatial": 3, "spatial_pos_max": 5},
            "model.num_spatial: expected at least 6 for a distance of 4",
        ),
        ({"num_in_degree": 2}, "model.num_in_degree: expected at least"),
        ({"num_edges": 600}, "model.num_edges: expected at least"),
        ({"num_atoms": 600}, "model.num_atoms: expected at least"),
    ],
)
def test_tables_too_small(fields, message) -> None:
    config = GraphormerConfig(**SMALL, **fields)
    with pytest.raises(ValueError, match=message):
        Graphormer(config)(pyg_batch(random_graphs()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "middle"}, "norm: expected one of post, pre"),
        ({"num_heads": 7}, "num_heads: expected a divisor"),
        ({"act_drop_rate": 1.0}, "act_drop_rate: expected a number"),
        ({"multi_hop_max_dist": 200}, "multi_hop_max_dist: expected at most num_edge_dis"),
        ({"depth": 0}, "depth: expected positive"),
    ],
)
def test_wrong_settings(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        GraphormerConfig(**fields)


@pytest.mark.parametrize(
    ("field", "tables"),
    [
        ("degree_encoding", ("in_degree_encoder", "out_degree_encoder")),
        ("spatial_encoding", ("spatial_pos_encoder",)),
        ("edge_encoding", ("edge_encoder", "edge_dis_encoder")),
    ],
)
@pytest.mark.parametrize("multi_hop", [True, False])
def test_without_an_encoding_its_tables_are_as_if_zero(field, tables, multi_hop) -> None:
    fields = SMALL | {"multi_hop": multi_hop}
    whole, without = (
        Graphormer(GraphormerConfig(**fields)),
        Graphormer(GraphormerConfig(**fields, **{field: False})),
    )
    spread_weights(whole)
    left = without.load_state_dict(whole.state_dict(), strict=False)
    gone = {name.split(".")[-2] for name in left.unexpected_keys}
    assert not left.missing_keys and gone == set(
        tables[: 1 + multi_hop] if field == "edge_encoding" else tables
    )
    data = pyg_batch(random_graphs())
    logits = without.eval()(data).logits
    assert not torch.allclose(whole.eval()(data).logits, logits, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for name in left.unexpected_keys:
            whole.get_parameter(name).zero_()
    assert torch.equal(whole(data).logits, logits)
    with pytest.raises(ValueError, match=f"{field}: the published Graphormer has it"):
        export_weights(without, "v2")


def test_config_and_weights_are_saved(tmp_path) -> None:
    model = Graphormer(GraphormerConfig(**SMALL, norm="pre")).eval()
    model.save_pretrained(tmp_path)
    again = Graphormer.from_pretrained(tmp_path).eval()
    data = pyg_batch(random_graphs())
    assert torch.equal(again(data).logits, model(data).logits)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in again.named_parameters()} == trained
    assert not trained["masked_lm_pooler.weight"] and not trained["unused_norm.weight"]
