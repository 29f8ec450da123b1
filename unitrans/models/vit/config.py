"""Configuration of a Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929), with the options of BEiT
(arXiv:2106.08254)."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from torch import Tensor
from transformers import PreTrainedConfig

from unitrans.models.images import check_rates, check_sizes, pair, with_positions
from unitrans.models.vit.plans import VitPlans, batch_plans, batch_visible_plans, image_plans
from unitrans.models.whole import Grid
from unitrans.nn import Activation

RelativePosition = Literal["none", "shared", "per_layer"]
Pooling = Literal["cls", "mean", "attention"]
NormPlace = Literal["rows", "pooled"]
VitInit = Literal["plain", "beit", "mae"]

_CHOICES = {
    "relative_position": RelativePosition,
    "pooling": Pooling,
    "final_norm": NormPlace,
    "init": VitInit,
    "activation": Activation,
}


class VitConfig(PreTrainedConfig):
    """Configuration of a plain ViT encoder; the defaults are ViT-B/16 at 224 px.

    Attributes:
        image_size: pixels, one number or [height, width]; it fixes the tables of positions.
        patch_size: pixels per side of a patch.
        in_chans: image channels.
        embed_dim: channels.
        depth: blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden width of the MLPs over the channels.
        qkv_bias: bias of the qkv projections.
        key_bias: whether the keys have their share of it (not in BEiT and SimMIM).
        qk_scale: factor on the scores; None is head_dim ** -0.5.
        drop_rate, attn_drop_rate, drop_path_rate: dropout of projections, of attention weights, and the
            stochastic depth of the last block (it grows linearly from 0).
        cls_token: a learned row in front of the patches.
        distillation_token: another one behind it (DeiT, arXiv:2012.12877); a classifier has a head for each and takes
            the mean of their logits.
        register_tokens: so many more in front of the patches, which nothing reads (arXiv:2309.16588).
        prefix_positions: the rows in front of the patches have absolute positions too (not in DeiT-3).
        ape: absolute position embeddings, of image_size; for other images they are resized (bicubic), as transformers
            does with interpolate_pos_encoding.
        fixed_positions: they are sines and cosines of column and row and are not trained (MAE); False: learned.
        relative_position: none, one table shared by all blocks, or one per block; images may then be at most
            image_size.
        layer_scale: initial value of a learned factor per channel on every branch; None is no factor.
        pooling: what a classifier sees: the class token (cls), the mean of the patches, or what a learned query
            gathers from all rows (attention: SigLIP, arXiv:2303.15343).
        pre_norm: a LayerNorm in front of the blocks (CLIP, arXiv:2103.00020).
        patch_bias: bias of the patch embedding.
        activation: of the MLPs: gelu (the exact one), gelu_tanh, quick_gelu or relu.
        final_norm: the last LayerNorm is on all rows, or on the pooled vector only.
        layer_norm_eps: of all LayerNorms.
        init: fresh weights: plain; beit (BEiT and SimMIM: tables of relative positions start at zero, normal
            weights are cut at one deviation, and the last layers of branches are divided by sqrt(2 * block)); or mae
            (uniform by fan-in and fan-out, of the patch embedding too).
    """

    model_type = "unitrans-vit"
    #: How tables of relative positions are resized: as SimMIM and BEiT do.
    resize_rule: ClassVar[str] = "geometric"

    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    key_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    cls_token: bool = True
    distillation_token: bool = False
    register_tokens: int = 0
    prefix_positions: bool = True
    ape: bool = True
    fixed_positions: bool = False
    relative_position: RelativePosition = "none"
    layer_scale: float | None = None
    pooling: Pooling = "cls"
    pre_norm: bool = False
    patch_bias: bool = True
    activation: Activation = "gelu"
    final_norm: NormPlace = "rows"
    layer_norm_eps: float = 1e-6
    init: VitInit = "plain"

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if min(pair(self.image_size, "image_size")) < 1:
            raise ValueError(f"image_size: expected positive numbers, got {self.image_size}")
        check_sizes(self, "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio")
        check_rates(self)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of embed_dim {self.embed_dim}, got {self.num_heads}"
            )
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.register_tokens < 0:
            raise ValueError(f"register_tokens: expected 0 or more, got {self.register_tokens}")
        if self.distillation_token and not self.cls_token:
            raise ValueError("distillation_token: expected a cls_token beside it, got cls_token=False")
        more = self.num_prefix > self.cls_token or not self.prefix_positions
        if more and (self.relative_position != "none" or self.fixed_positions):
            raise ValueError(
                "relative_position, fixed_positions: expected at most a class token with a position of its own in "
                "front of the patches, got other tokens"
            )
        if self.fixed_positions and (not self.ape or self.embed_dim % 4):
            raise ValueError(
                f"fixed_positions: expected ape and an embed_dim that is a multiple of 4, got ape={self.ape} and "
                f"embed_dim={self.embed_dim}"
            )
        if self.pooling == "cls" and not self.cls_token:
            raise ValueError(
                "pooling: expected mean, as cls_token is false and there is none to take; got cls"
            )

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in transformers: BEiT's where the keys have no bias."""
        return "beit" if self.cls_token and self.qkv_bias and not self.key_bias else "vit"

    @property
    def num_prefix(self) -> int:
        """Rows in front of the patches of an image."""
        return int(self.cls_token) + int(self.distillation_token) + int(self.register_tokens)

    @property
    def num_features(self) -> int:
        """Channels of the last rows."""
        return self.embed_dim

    @property
    def total_stride(self) -> int:
        """Pixels per side that one row stands for."""
        return self.patch_size

    @property
    def grid(self) -> Grid:
        """Patches per column and row at `image_size`."""
        height, width = pair(self.image_size, "image_size")
        return -(-height // self.patch_size), -(-width // self.patch_size)

    @property
    def pads_images(self) -> bool:
        """Whether images are filled up to whole patches; False: what does not fill one is left out, as published."""
        return False

    @property
    def _table(self) -> Grid | None:
        return None if self.relative_position == "none" else self.grid

    def image_plans(self, grid: Grid) -> VitPlans:
        """The plans of one image of this many patches per column and row."""
        return with_positions(self, [grid], image_plans(grid, self._table, self.num_prefix))

    def plans(self, grids: Sequence[Grid], visible: Sequence[Tensor] | None = None) -> VitPlans:
        """The plans of a batch of images, in the order of the stream.

        Args:
            grids: (h, w) of each image in patches.
            visible: bool [h, w] of each image: only these patches exist. None: all.

        Raises:
            ValueError: an image that the tables of positions do not cover.
        """
        for grid in grids:
            self.check_grid(grid)
        grids = tuple((int(h), int(w)) for h, w in grids)
        if visible is not None:
            plans = batch_visible_plans(grids, visible, self._table, self.num_prefix)
        else:
            plans = batch_plans(grids, self._table, self.num_prefix)
        return with_positions(self, grids, plans)

    def check_grid(self, grid: Grid) -> None:
        """Raises ValueError if images of this many patches cannot be fed."""
        if self.ape and self.relative_position != "none" and tuple(grid) != self.grid:
            raise ValueError(
                f"images: with ape and relative positions expected the patch grid {self.grid} of image_size "
                f"{self.image_size}, got {tuple(grid)}"
            )
        if self.relative_position != "none" and (grid[0] > self.grid[0] or grid[1] > self.grid[1]):
            raise ValueError(
                f"images: with relative positions expected at most the patch grid {self.grid} of "
                f"image_size {self.image_size}, got {tuple(grid)}"
            )
