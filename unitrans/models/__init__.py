"""Models: one folder per family, a configuration and a network each, in transformers' conventions (layer 5).

Names are imported when they are used. The first use makes all families known to transformers' Auto classes.
"""

import sys
import warnings
from typing import TYPE_CHECKING, Any

from unitrans.models import registry

if TYPE_CHECKING:
    from unitrans.models.bert.config import BertConfig as BertConfig
    from unitrans.models.bert.model import BertForMaskedLM as BertForMaskedLM
    from unitrans.models.bert.model import BertForNextSentencePrediction as BertForNextSentencePrediction
    from unitrans.models.bert.model import BertForPreTraining as BertForPreTraining
    from unitrans.models.bert.model import BertForSequenceClassification as BertForSequenceClassification
    from unitrans.models.bert.model import BertForTokenClassification as BertForTokenClassification
    from unitrans.models.bert.model import BertModel as BertModel
    from unitrans.models.gpt2.config import Gpt2Config as Gpt2Config
    from unitrans.models.gpt2.model import Gpt2LMHeadModel as Gpt2LMHeadModel
    from unitrans.models.gpt2.model import Gpt2Model as Gpt2Model
    from unitrans.models.graphormer.config import GraphormerConfig as GraphormerConfig
    from unitrans.models.graphormer.model import Graphormer as Graphormer
    from unitrans.models.graphormer.model import GraphormerModel as GraphormerModel
    from unitrans.models.joint.config import JointConfig as JointConfig
    from unitrans.models.joint.model import JointModel as JointModel
    from unitrans.models.swin.config import SwinConfig as SwinConfig
    from unitrans.models.swin.config import Swinv2Config as Swinv2Config
    from unitrans.models.swin.model import SwinBackbone as SwinBackbone
    from unitrans.models.swin.model import SwinForImageClassification as SwinForImageClassification
    from unitrans.models.swin.model import SwinModel as SwinModel
    from unitrans.models.swin.model import Swinv2Backbone as Swinv2Backbone
    from unitrans.models.swin.model import Swinv2ForImageClassification as Swinv2ForImageClassification
    from unitrans.models.swin.model import Swinv2Model as Swinv2Model
    from unitrans.models.vit.config import VitConfig as VitConfig
    from unitrans.models.vit.model import VitForImageClassification as VitForImageClassification
    from unitrans.models.vit.model import VitModel as VitModel


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        warnings.warn(
            "unitrans.models.MODELS goes with the next release: register a model with "
            "unitrans.models.registry.register_model",
            DeprecationWarning,
            stacklevel=2,
        )
        return registry.OldTable()
    folder = next((folder for folder in registry.folders() if name in folder.__all__), None)
    if folder is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registry.announce()
    value = getattr(folder, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"MODELS", "registry", *(name for folder in registry.folders() for name in folder.__all__)})


if "transformers" in sys.modules:
    registry.announce()
