"""A whole family from outside of the package: patches mixed by Blocks without a class token; plans are ViT's."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from unitrans.models._weights import Format, numbers
from unitrans.models.images import (
    EncoderOutput,
    HasImageEncoder,
    ImageEncoder,
    as_maps,
    chosen,
    classified,
    mean_per_sample,
    pair,
)
from unitrans.models.registry import register_model
from unitrans.models.renames import Layout, under
from unitrans.models.vit.plans import VitPlans, batch_plans, batch_visible_plans, image_plans
from unitrans.models.whole import Grid
from unitrans.nn import Block, PatchEmbed


class ToyConfig(PreTrainedConfig):
    """Configuration of the toy.

    Attributes:
        image_size, patch_size, in_chans: of images.
        embed_dim, depth, num_heads: channels, blocks, heads.
    """

    model_type = "toy-mixer"

    image_size: int = 8
    patch_size: int = 2
    in_chans: int = 3
    embed_dim: int = 16
    depth: int = 2
    num_heads: int = 2
    pads_images = False

    @property
    def num_features(self) -> int:
        return self.embed_dim

    @property
    def total_stride(self) -> int:
        return self.patch_size

    @property
    def grid(self) -> Grid:
        height, width = pair(self.image_size, "image_size")
        return height // self.patch_size, width // self.patch_size

    def check_grid(self, grid: Grid) -> None:
        """All sizes can be fed."""

    def image_plans(self, grid: Grid) -> VitPlans:
        return image_plans(grid, None, 0)

    def plans(self, grids: Sequence[Grid], visible: Sequence[Tensor] | None = None) -> VitPlans:
        grids = tuple((int(h), int(w)) for h, w in grids)
        if visible is not None:
            return batch_visible_plans(grids, visible, None, 0)
        return batch_plans(grids, None, 0)


class ToyModel(ImageEncoder):
    config_class = ToyConfig
    base_model_prefix = "encoder"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config.patch_size, config.in_chans, config.embed_dim, norm=False)
        self.blocks = nn.ModuleList(Block(config.embed_dim, config.num_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim)
        self.remember_plans()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Layers draw their own weights."""

    @staticmethod
    def no_weight_decay() -> set[str]:
        return set()

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        return ()

    def embed(self, patches: Tensor) -> Tensor:
        return self.patch_embed(patches)

    def encode_blocks(self, x: Tensor, plans: VitPlans) -> list[Tensor]:
        rows = []
        for block in self.blocks:
            x = block(x, plans.groups)
            rows.append(x)
        return rows

    def encode(self, x: Tensor, plans: VitPlans) -> Tensor:
        return self.norm(self.encode_blocks(x, plans)[-1])

    def features(self, patches: Tensor, plans: VitPlans) -> Tensor:
        return self.encode(self.embed(self.visible(patches, plans)), plans)

    def token_rows(self, x: Tensor, plans: VitPlans) -> Tensor:
        return x

    def pool(self, x: Tensor, plans: VitPlans) -> Tensor:
        return mean_per_sample(x, plans.sample_index, plans.token_counts)

    def forward_features(
        self, pixel_values: Tensor, out_indices: Sequence[int] | None = None
    ) -> list[Tensor]:
        patches, plans = self.pack(pixel_values)
        rows = self.encode_blocks(self.embed(patches), plans)
        grid = tuple(side // self.config.patch_size for side in pixel_values.shape[2:])
        return [
            as_maps(rows[n], (grid[0], grid[1])) for n in chosen(out_indices, self.config.depth, "blocks")
        ]

    def forward(self, pixel_values: Any = None, patches: Any = None, plans: Any = None) -> EncoderOutput:
        patches, plans = self.packed(pixel_values, patches, plans)
        x = self.features(patches, plans)
        return EncoderOutput(last_hidden_state=x, pooler_output=self.pool(x, plans))


class ToyForImageClassification(HasImageEncoder, ImageEncoder):
    config_class = ToyConfig
    base_model_prefix = "encoder"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.encoder = ToyModel(config)
        self.head = nn.Linear(config.num_features, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Layers draw their own weights."""

    def forward(
        self, pixel_values: Any = None, labels: Any = None, patches: Any = None, plans: Any = None
    ) -> EncoderOutput:
        return classified(self.encoder(pixel_values, patches, plans), self.head, labels)


_THEIRS = under("mixer.{b}.", "blocks.{b}.", (("{rest}", "{rest}"),))


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    width, channels, patch, _ = own["patch_embed.proj.weight"].shape
    fields = {"embed_dim": width, "in_chans": channels, "patch_size": patch}
    fields["depth"] = len(numbers(own, r"blocks\.(\d+)\."))
    if "head.weight" in own:
        fields["num_labels"] = len(own["head.weight"])
    return fields, {"num_heads": "heads of each block"}


FORMATS = (
    Format(
        name="mixer",
        titles=("Mixer",),
        layouts={"mixerlib": Layout(renames=(("stem.{rest}", "patch_embed.proj.{rest}"), *_THEIRS))},
        layout_of=lambda weights: "mixerlib" if "stem.weight" in weights else None,
        fields=_fields,
        classes={"encoder": ToyModel, "classifier": ToyForImageClassification},
        sources=("mixerlib",),
        config=lambda source, theirs, kind, **changes: ToyConfig(**changes),
    ),
)


def register() -> None:
    register_model(
        "mixer",
        config=ToyConfig,
        model=ToyModel,
        auto={"AutoModelForImageClassification": ToyForImageClassification},
        formats=FORMATS,
        layouts=("mixerlib",),
        sizes={"mixer_micro": {"embed_dim": 8, "depth": 1, "num_heads": 1}},
    )
