"""The models. One file a method; what lies in this folder travels to the Hub with the weights, so it is flat.

`METHODS` is the table of the methods, one line each. Importing this package also registers them with transformers' Auto
classes, so that `AutoModel.from_pretrained` needs no remote code where hfssl is installed.
"""

from typing import NamedTuple

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from .backbone import BackboneConfig, BackboneError
from .codes import cotraining_loss
from .contrastive import NTXentLoss, cpc_loss, nt_xent
from .encoder_head import EncoderHeadConfig
from .modeling_cbow import CBOWConfig, CBOWForPreTraining, CBOWModel
from .modeling_colorization import (
    ColorizationConfig,
    ColorizationForImageClassification,
    ColorizationForPreTraining,
    ColorizationModel,
)
from .modeling_context_encoder import (
    ContextEncoderConfig,
    ContextEncoderForImageClassification,
    ContextEncoderForPreTraining,
    ContextEncoderModel,
)
from .modeling_cotraining import (
    CoTrainingConfig,
    CoTrainingForImageClassification,
    CoTrainingForPreTraining,
    CoTrainingModel,
)
from .modeling_cpc import CPCConfig, CPCForImageClassification, CPCForPreTraining, CPCModel
from .modeling_hashing import HashingConfig, HashingForPreTraining
from .modeling_hire import HireConfig, HireForSequenceClassification
from .modeling_sentence import SentenceConfig, SentenceForSequenceClassification, SentenceModel
from .modeling_simclr import SimCLRConfig, SimCLRForImageClassification, SimCLRForPreTraining, SimCLRModel
from .modeling_span import SENTENCE_STATES, SpanConfig, SpanForSequenceClassification
from .modeling_tagger import TaggerConfig, TaggerForPreTraining


class Method(NamedTuple):
    """The classes of one method. `for_pretraining`'s forward returns the `loss`."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    for_pretraining: type[PreTrainedModel]
    for_classification: type[PreTrainedModel]


METHODS = {
    "colorization": Method(
        ColorizationConfig, ColorizationModel, ColorizationForPreTraining, ColorizationForImageClassification
    ),
    "context_encoder": Method(
        ContextEncoderConfig, ContextEncoderModel, ContextEncoderForPreTraining, ContextEncoderForImageClassification
    ),
    "cotraining": Method(CoTrainingConfig, CoTrainingModel, CoTrainingForPreTraining, CoTrainingForImageClassification),
    "cpc": Method(CPCConfig, CPCModel, CPCForPreTraining, CPCForImageClassification),
    "simclr": Method(SimCLRConfig, SimCLRModel, SimCLRForPreTraining, SimCLRForImageClassification),
}

for _method in METHODS.values():
    AutoConfig.register(_method.config.model_type, _method.config, exist_ok=True)
    AutoModel.register(_method.config, _method.model, exist_ok=True)
    AutoModelForPreTraining.register(_method.config, _method.for_pretraining, exist_ok=True)
    AutoModelForImageClassification.register(_method.config, _method.for_classification, exist_ok=True)

# Heads and baselines of fine-tuning: nothing is pretrained with them, so they are no methods.
for _config, _model in (
    (HireConfig, HireForSequenceClassification),
    (SentenceConfig, SentenceForSequenceClassification),
    (SpanConfig, SpanForSequenceClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForSequenceClassification.register(_config, _model, exist_ok=True)
AutoModel.register(SentenceConfig, SentenceModel, exist_ok=True)

# Words: these models have neither an image encoder nor a classifier.
for _config, _model in (
    (CBOWConfig, CBOWForPreTraining),
    (TaggerConfig, TaggerForPreTraining),
    (HashingConfig, HashingForPreTraining),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForPreTraining.register(_config, _model, exist_ok=True)
AutoModel.register(CBOWConfig, CBOWModel, exist_ok=True)

__all__ = [
    "METHODS",
    "SENTENCE_STATES",
    "BackboneConfig",
    "BackboneError",
    "CBOWConfig",
    "CBOWForPreTraining",
    "CBOWModel",
    "CPCConfig",
    "CPCForImageClassification",
    "CPCForPreTraining",
    "CPCModel",
    "CoTrainingConfig",
    "CoTrainingForImageClassification",
    "CoTrainingForPreTraining",
    "CoTrainingModel",
    "ColorizationConfig",
    "ColorizationForImageClassification",
    "ColorizationForPreTraining",
    "ColorizationModel",
    "ContextEncoderConfig",
    "ContextEncoderForImageClassification",
    "ContextEncoderForPreTraining",
    "ContextEncoderModel",
    "EncoderHeadConfig",
    "HashingConfig",
    "HashingForPreTraining",
    "HireConfig",
    "HireForSequenceClassification",
    "Method",
    "NTXentLoss",
    "SentenceConfig",
    "SentenceForSequenceClassification",
    "SentenceModel",
    "SimCLRConfig",
    "SimCLRForImageClassification",
    "SimCLRForPreTraining",
    "SimCLRModel",
    "SpanConfig",
    "SpanForSequenceClassification",
    "TaggerConfig",
    "TaggerForPreTraining",
    "cotraining_loss",
    "cpc_loss",
    "nt_xent",
]
