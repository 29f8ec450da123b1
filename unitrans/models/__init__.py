"""Models: a configuration and a network each, in transformers' conventions (layer 5)."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from unitrans.models.swin import SwinConfig, SwinForImageClassification, SwinModel

#: What `model.name` of a configuration file can be.
MODELS = {"swin": (SwinConfig, SwinModel)}

for _config, _model in MODELS.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoModelForImageClassification.register(SwinConfig, SwinForImageClassification, exist_ok=True)

__all__ = ["MODELS", "SwinConfig", "SwinForImageClassification", "SwinModel"]
