"""Blocks, embeddings and row maps against plain definitions."""

import pytest
import torch
from torch import nn

from unitrans import Plan
from unitrans.nn import Block, DropPath, PatchEmbed, PatchMerging, RowMap, gather_rows, patchify, unpatchify


@pytest.mark.parametrize("index", [[2, 0, 1], [0, -1, 2, 1], [3, 1], [-1, -1, 0]])
def test_gathered_rows_and_their_gradients(index: list[int]) -> None:
    num_rows = 4
    rows = RowMap.from_index(torch.tensor(index), num_rows)
    x = torch.randn(num_rows, 3, dtype=torch.float64, requires_grad=True)
    want = torch.stack([x[i] if i >= 0 else torch.zeros(3, dtype=torch.float64) for i in index])
    assert torch.equal(gather_rows(x, rows), want)
    assert torch.autograd.gradcheck(lambda x: gather_rows(x, rows), x)
    assert torch.autograd.gradgradcheck(lambda x: gather_rows(x, rows), x)


@pytest.mark.parametrize("index", [[1, 0], [0, -1, 1], [1]])
def test_repeated_and_joined_row_maps(index: list[int]) -> None:
    one, other = RowMap.from_index(torch.tensor(index), 2), RowMap.from_index(torch.tensor([2, -1, 0]), 3)
    x, y = torch.randn(2, 4), torch.randn(3, 4)
    apart = torch.cat([gather_rows(x, one), gather_rows(x + 1, one)])
    assert torch.equal(gather_rows(torch.cat([x, x + 1]), one.repeat(2)), apart)
    both = torch.cat([gather_rows(x, one), gather_rows(y, other)])
    assert torch.equal(gather_rows(torch.cat([x, y]), RowMap.cat([one, other])), both)


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 12, 4), (6, 6, 1), (4, 8, 2)])
def test_patches_are_those_of_a_strided_convolution(height: int, width: int, patch: int) -> None:
    images = torch.randn(2, 3, height, width)
    embed = PatchEmbed(patch, 3, 5, norm=False)
    want = embed.proj(images).flatten(2).transpose(1, 2)
    patches = patchify(images, patch)
    torch.testing.assert_close(embed(patches), want)
    assert torch.equal(unpatchify(patches, (height // patch, width // patch), patch, 3), images)
    assert torch.equal(patchify(images[0], patch), patches[0])


def test_images_that_patches_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of patch_size 4, got 8 x 6"):
        patchify(torch.zeros(3, 8, 6), 4)


def test_merging_normalises_before_or_after() -> None:
    quads = torch.randn(8, 6)
    for norm_last in (False, True):
        merge = PatchMerging(6, norm_last=norm_last)
        nn.init.normal_(merge.norm.weight)
        x = quads.view(2, 24)
        want = merge.norm(merge.reduction(x)) if norm_last else merge.reduction(merge.norm(x))
        assert torch.equal(merge(quads), want)


@pytest.mark.parametrize("norm", ["pre", "post", "res-post"])
def test_norm_placement(norm: str) -> None:
    torch.manual_seed(0)
    block, plan, x = Block(8, 2, norm=norm), Plan.from_lengths([3, 4]), torch.randn(7, 8)  # type: ignore[arg-type]
    for layer in (block.norm1, block.norm2):
        nn.init.normal_(layer.weight)
    attn, mlp, norm1, norm2 = (lambda x: block.attn(x, plan)), block.mlp, block.norm1, block.norm2
    if norm == "pre":
        y = x + attn(norm1(x))
        want = y + mlp(norm2(y))
    elif norm == "post":
        y = norm1(x + attn(x))
        want = norm2(y + mlp(y))
    else:
        y = x + norm1(attn(x))
        want = y + norm2(mlp(y))
    torch.testing.assert_close(block(x, plan), want)


def test_block_equals_torch_encoder_layer() -> None:
    """A post-norm Block on packed sentences is torch's layer on the padded batch."""
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True).eval()
    block = Block(16, 4, mlp_ratio=2.0, norm="post").eval()
    block.attn.qkv.load_state_dict(
        {"weight": theirs.self_attn.in_proj_weight, "bias": theirs.self_attn.in_proj_bias}
    )
    block.attn.proj.load_state_dict(theirs.self_attn.out_proj.state_dict())
    block.mlp.fc1.load_state_dict(theirs.linear1.state_dict())
    block.mlp.fc2.load_state_dict(theirs.linear2.state_dict())
    x = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    want = theirs(x, src_key_padding_mask=padding)[~padding]
    torch.testing.assert_close(block(x[~padding], Plan.from_lengths([5, 3])), want, rtol=1e-4, atol=1e-5)


def test_drop_path_keeps_the_mean_and_is_off_in_eval() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(8000, 2)
    sample = torch.arange(4000).repeat_interleave(2)
    y = drop(x, sample, 4000)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(y[::2], y[1::2]) and abs(y.mean().item() - 1) < 0.05
    assert drop.eval()(x, None, 0) is x
    with pytest.raises(ValueError, match="needs sample_index"):
        drop.train()(x, None, 0)
    with pytest.raises(ValueError, match=r"drop_path_rate: expected a number in \[0, 1\), got 1.0"):
        DropPath(1.0)
