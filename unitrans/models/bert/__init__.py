"""BERT and RoBERTa for texts."""

from unitrans.models.bert.sizes import SIZES
from unitrans.models.registry import lazy_names, register_model

_HERE = __name__
__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
]
__getattr__ = lazy_names(__name__, "config", "model")

register_model(
    "bert",
    config=f"{_HERE}.config:BertConfig",
    model=f"{_HERE}.model:BertModel",
    auto={
        "AutoModelForMaskedLM": f"{_HERE}.model:BertForMaskedLM",
        "AutoModelForSequenceClassification": f"{_HERE}.model:BertForSequenceClassification",
        "AutoModelForTokenClassification": f"{_HERE}.model:BertForTokenClassification",
    },
    formats=f"{_HERE}.weights:FORMATS",
    layouts=("hf4", "hf5"),
    sizes=SIZES,
    shared_in="text",
)
