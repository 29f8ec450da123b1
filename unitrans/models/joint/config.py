"""Configuration of one trunk for several domains, and what of it a domain's part may not have otherwise."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

from unitrans.models import registry
from unitrans.models.images import check_sizes


class _Parts(Mapping[str, tuple[str, ...]]):
    def __getitem__(self, domain: str) -> tuple[str, ...]:
        if domain not in DOMAINS:
            raise KeyError(domain)
        return tuple(name for name, family in registry.families().items() if family.shared_in == domain)

    def __iter__(self) -> Iterator[str]:
        return iter(DOMAINS)

    def __len__(self) -> int:
        return len(DOMAINS)


DOMAINS = ("vision", "text", "graph")
#: The models whose Blocks can be shared, by domain, in the order of the stream.
PARTS: Mapping[str, tuple[str, ...]] = _Parts()
#: Settings that every part has from the trunk, and those that no part may have otherwise.
TRUNK = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "layer_norm_eps"),
    *("drop_rate", "attn_drop_rate", "act_drop_rate"),
)
FIXED = {
    "norm": "pre",
    "activation": "gelu",
    "qkv_bias": True,
    "key_bias": True,
    "qk_scale": None,
    "layer_scale": None,
    "drop_path_rate": 0.0,
}


def domain_of(encoder: Mapping[str, Any]) -> str | None:
    """The domain whose part a stored encoder of this configuration can be; None where its blocks cannot be shared."""
    kind = str(encoder.get("model_type", "")).removeprefix("unitrans-")
    return next((domain for domain, kinds in PARTS.items() if kind in kinds), None)


def part_of(encoder: Mapping[str, Any], domain: str) -> dict[str, Any] | None:
    """The stored configuration of a domain's encoder: of a joint model that of its part, None where it has none; of
    another model itself."""
    if encoder.get("model_type") != JointConfig.model_type:
        return dict(encoder)
    part = encoder.get(domain)
    return None if part is None else dict(part)


class JointConfig(PreTrainedConfig):
    """Configuration of a trunk and of the parts of its domains.

    Attributes:
        embed_dim: channels.
        depth: blocks, pre-norm with the exact GELU.
        num_heads: heads of each block.
        mlp_ratio: hidden width of the MLPs over the channels.
        layer_norm_eps: of all LayerNorms.
        drop_rate, attn_drop_rate, act_drop_rate: dropout of projections and embedded rows, of attention weights, and
            behind the activation of the MLPs.
        initializer_range: deviation of the fresh weights of the blocks; the last layers of branches start smaller by
            the root of their number (GPT-2).
        vision, text, graph: configuration of the domain's part, or its settings as a dict with its model_type; what
            the trunk says need not be repeated. None: there is no such domain.
    """

    model_type = "unitrans-joint"

    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_drop_rate: float = 0.0
    initializer_range: float = 0.02
    vision: Any = None
    text: Any = None
    graph: Any = None

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        check_sizes(self, "embed_dim", "depth", "num_heads", "mlp_ratio", "initializer_range")
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                setattr(self, name, self._part(name, part))
        if not self.parts:
            raise ValueError(f"model: expected at least one of {', '.join(PARTS)}, got none")

    @property
    def parts(self) -> dict[str, Any]:
        """The configurations of the domains there are, in the order of the stream."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def _part(self, name: str, part: Any) -> PreTrainedConfig:
        """The configuration of a part. ValueError for one that the trunk does not fit."""
        given = dict(part.to_dict() if isinstance(part, PreTrainedConfig) else part)
        kind = str(given.pop("model_type", "")).removeprefix("unitrans-")
        if kind not in PARTS[name]:
            raise ValueError(
                f"model.{name}.name: expected {' or '.join(PARTS[name])}, whose blocks can be shared, got {kind!r}"
            )
        model_type = f"unitrans-{kind}"
        known = registry.make_config(model_type).to_dict()
        needed = FIXED | {key: getattr(self, key) for key in TRUNK}
        needed = {key: value for key, value in needed.items() if key in known}
        for key, value in needed.items():
            if key in given and given[key] != value:
                raise ValueError(
                    f"model.{name}.{key}: the blocks of a joint model are shared, expected {value}, got {given[key]}; "
                    "leave it out"
                )
        config = (
            part if isinstance(part, PreTrainedConfig) else registry.make_config(model_type, **needed | given)
        )
        if getattr(config, "relative_position", "none") == "per_layer":
            raise ValueError(
                f"model.{name}.relative_position: the blocks of a joint model are shared, expected none or shared, got "
                "per_layer"
            )
        return config

    @property
    def num_features(self) -> int:
        """Channels of the last rows."""
        return self.embed_dim
