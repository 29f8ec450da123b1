"""The attention op, its plans and its backends (layer 3)."""

from unitrans.ops.attention import attention, attention_qkvpacked
from unitrans.ops.plan import Plan

__all__ = ["Plan", "attention", "attention_qkvpacked"]
