"""The measures of the joint benchmark on cases whose answer is known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.joint import ARMS, DOMAINS, FIGURES, TUNED, joint_config, operations, summary, write_topics
from benchmarks.joint_views import channel_cka, cka, draw, head_distances, held_out_batches, layers_of
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.documents import EmbeddedText
from unitrans.training.session import Session, open_new_session


@pytest.fixture(scope="module")
def session() -> Session:
    settings = ["model.embed_dim=16", "model.num_heads=2", "train.per_device_train_batch_size=12"]
    return open_new_session(joint_config(0, 1, settings))


def test_cka_is_one_up_to_rotation_and_low_for_noise() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 8) * torch.arange(1, 9)
    turned = x @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert cka(x, 3 * turned + 5) == pytest.approx(1.0, abs=1e-6)
    assert cka(x, torch.randn(400, 8)) < 0.1
    # Other samples of the same distribution go together alike; turned channels do not.
    other = torch.randn(700, 8) * torch.arange(1, 9)
    assert channel_cka(x, other) > 0.97
    assert channel_cka(x, turned) < 0.7


def test_uniform_heads_look_as_far_as_uniform_attention(session: Session) -> None:
    encoder = session.model.encoder.eval()
    batches = held_out_batches(session)
    assert set(batches) == set(DOMAINS)
    with torch.no_grad():
        for block in encoder.blocks:  # no scores: only the bias planes of images and molecules are left
            block.attn.qkv.weight[: 2 * 16] = 0
            block.attn.qkv.bias[: 2 * 16] = 0
        config = session.model_config.parts["text"]
        found, even = head_distances(encoder, batches["text"], "text", True, config)
        assert np.allclose(found, even, rtol=1e-5) and len(found) == 2 and len(found[0]) == 2
        lengths = batches["text"]["plans"].groups.cu_seqlens.diff().double()
        assert even == pytest.approx(float(((lengths**2 - 1) / 3).sum() / lengths.sum()))
        for domain in ("vision", "graph"):
            config = session.model_config.parts[domain]
            found, even = head_distances(encoder, batches[domain], domain, True, config)
            assert np.isfinite(found).all() and 1 < even < 8
        layers = layers_of(encoder, batches["graph"], "graph", True)
        assert len(layers) == 3 and len({layer.shape for layer in layers}) == 1


def test_operations_grow_with_the_share_of_a_domain(session: Session) -> None:
    more = joint_config(
        0, 1, ["model.embed_dim=16", "model.num_heads=2", "data.mixing={vision: 3, text: 1, graph: 1}"]
    )
    more.train["per_device_train_batch_size"] = 15  # 9 images, and 3 before
    first, second = operations(session, 1), operations(open_new_session(more), 1)
    assert second["vision"] == pytest.approx(3 * first["vision"], rel=0.01)


def test_topics_keep_what_pretraining_holds_out(tmp_path: Path, session: Session) -> None:
    held_out = session.by_domain()["text"].validation_source
    assert held_out is not None
    kept = {name.split(":")[0] for name in held_out.ids}  # of long paragraphs there are several parts
    documents = EmbeddedText(DataConfig(path="pydoc", document="blank_line"))
    ids = {doc.text: doc.id for file in range(documents.files) for doc in documents.of_file(file)}
    write_topics(tmp_path)
    for name in ("train", "test"):
        with (tmp_path / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len({row["label"] for row in rows}) == 10
        assert {ids[row["text"]].split(":")[0] in kept for row in rows} == {name == "test"}


def test_summary_and_pictures_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for seed in (0, 1, 2):
        figures = {f"{d}_{name}": 0.5 + 0.1 * seed for d in DOMAINS for name in (FIGURES[d][0], "loss")}
        lines.append({"seed": seed, "run": "joint", "updates": 4, "seconds": 1.0, "figures": figures})
        for d in DOMAINS:
            alone = {FIGURES[d][0]: 0.4 + 0.1 * seed, "loss": 1.0}
            tuned = {TUNED[d][0]: 0.5, "loss": 1.0}
            for arm in ARMS[1:-1]:
                lines.append(
                    {"seed": seed, "run": f"{arm}_{d}", "updates": 4, "seconds": 1.0, "figures": alone}
                )
            for arm in ARMS:
                lines.append(
                    {"seed": seed, "run": f"tuned_{arm}_{d}", "updates": 4, "seconds": 1.0, "figures": tuned}
                )
    file = tmp_path / "joint.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    summary(file)
    printed = capsys.readouterr().out
    assert (
        "| vision l1 | alone | 3 | 4 | 1 | 0.5000 (0.4000, 0.5000, 0.6000) | 1.0000 | +0.1000 +- 0.0000 |"
        in printed
    )
    with pytest.raises(SystemExit, match="no views"):
        draw(lines, tmp_path)
