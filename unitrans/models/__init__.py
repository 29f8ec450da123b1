"""Models: a configuration and a network each, in transformers' conventions (layer 5)."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from unitrans.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from unitrans.models.gpt2 import Gpt2Config, Gpt2LMHeadModel, Gpt2Model
from unitrans.models.graphormer import Graphormer, GraphormerConfig, GraphormerModel
from unitrans.models.joint import JointConfig, JointModel
from unitrans.models.swin import SwinBackbone, SwinConfig, SwinForImageClassification, SwinModel
from unitrans.models.swinv2 import Swinv2Backbone, Swinv2Config, Swinv2ForImageClassification, Swinv2Model
from unitrans.models.vit import VitConfig, VitForImageClassification, VitModel

#: What `model.name` of a configuration file can be.
MODELS: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertModel),
    "gpt2": (Gpt2Config, Gpt2Model),
    "swin": (SwinConfig, SwinModel),
    "swinv2": (Swinv2Config, Swinv2Model),
    "vit": (VitConfig, VitModel),
    "graphormer": (GraphormerConfig, GraphormerModel),
    "joint": (JointConfig, JointModel),
}

for _config, _model in MODELS.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
for _config, _classifier in (
    (SwinConfig, SwinForImageClassification),
    (Swinv2Config, Swinv2ForImageClassification),
    (VitConfig, VitForImageClassification),
):
    AutoModelForImageClassification.register(_config, _classifier, exist_ok=True)
AutoModelForMaskedLM.register(BertConfig, BertForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(BertConfig, BertForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(BertConfig, BertForTokenClassification, exist_ok=True)

__all__ = [
    "Graphormer",
    "GraphormerConfig",
    "GraphormerModel",
    "MODELS",
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "Gpt2Config",
    "Gpt2LMHeadModel",
    "Gpt2Model",
    "JointConfig",
    "JointModel",
    "SwinBackbone",
    "SwinConfig",
    "SwinForImageClassification",
    "SwinModel",
    "Swinv2Backbone",
    "Swinv2Config",
    "Swinv2ForImageClassification",
    "Swinv2Model",
    "VitConfig",
    "VitForImageClassification",
    "VitModel",
]
