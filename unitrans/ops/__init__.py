"""The attention op, its plans and its backends (layer 3)."""

from unitrans.ops.attention import attention, attention_qkvpacked
from unitrans.ops.maps import AttentionMap, attention_maps
from unitrans.ops.plan import Plan

__all__ = ["AttentionMap", "Plan", "attention", "attention_maps", "attention_qkvpacked"]
