"""BERT (Devlin et al., NAACL 2019, arXiv:1810.04805) and RoBERTa (arXiv:1907.11692) on the one Block.

Post-norm Blocks, one group per document, no padding: models take a padded batch or the packed stream, and
compute on the packed stream.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.models._encoder import Model
from unitrans.models.bert.config import BertConfig
from unitrans.models.images import EncoderOutput, classified, classifier
from unitrans.models.text import TextEncoder, TextPlans, draw_head, padded_like
from unitrans.models.text_heads import IGNORED, MaskedLMHead, encoded, head_arguments, token_scores


class BertModel(TextEncoder):
    """The BERT encoder.

    Example:
        >>> model = BertModel(BertConfig(depth=2))
        >>> ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> model(ids, mask).pooler_output.shape
        torch.Size([2, 768])
    """

    config_class = BertConfig
    base_model_prefix = "encoder"


def masked_lm_head(config: BertConfig) -> MaskedLMHead:
    """The masked-language head of an encoder with this configuration."""
    return MaskedLMHead(*head_arguments(config))


class BertHeadModel(Model):
    """Base of BERT with a head. The encoder is `encoder`, the head `head`."""

    config_class = BertConfig
    base_model_prefix = "encoder"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = BertModel(config)

    def _init_weights(self, module: nn.Module) -> None:
        """Encoders and heads draw their own weights."""


class BertForMaskedLM(BertHeadModel):
    """BERT with the masked-language head, whose last layer is the table of tokens."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.head = masked_lm_head(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `BertModel.forward`; labels, of the shape of input_ids, are -100 where nothing is predicted.

        Returns:
            logits of all positions, [B, S, V] (0 at padding) or [T, V]; with labels the mean cross-entropy as loss.
        """
        rows, text = encoded(
            self.encoder, input_ids, attention_mask, token_type_ids, plans, position_ids, tied=True
        )
        logits, loss = token_scores(self.head, rows, self.encoder, labels, text.places)
        return EncoderOutput(loss=loss, logits=padded_like(logits, input_ids, text.places))


class BertForPreTraining(BertHeadModel):
    """BERT with the masked-language head and the next-sentence head (section 3.1).

    The configuration needs pooling "pooler".
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if config.pooling != "pooler":
            raise ValueError(f"pooling: the next-sentence head expects 'pooler', got {config.pooling!r}")
        self.head = masked_lm_head(config)
        self.nsp = nn.Linear(config.embed_dim, 2)
        draw_head(self.nsp)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `BertForMaskedLM.forward`, and next_sentence_label int64 [B] (0: B follows A; 1: it does not).

        Returns:
            loss: the sum of the two mean cross-entropies, of those whose labels are given; logits as in
            `BertForMaskedLM`; pooler_output [B, 2], the scores of the next-sentence head.
        """
        rows, text = encoded(
            self.encoder, input_ids, attention_mask, token_type_ids, plans, position_ids, tied=True
        )
        logits, loss = token_scores(self.head, rows, self.encoder, labels, text.places)
        follows = self.nsp(self.encoder.pool(rows, text.plans))
        if next_sentence_label is not None:
            second = F.cross_entropy(follows, next_sentence_label.view(-1))
            loss = second if loss is None else loss + second
        logits = padded_like(logits, input_ids, text.places)
        return EncoderOutput(loss=loss, logits=logits, pooler_output=follows)


class BertForNextSentencePrediction(BertHeadModel):
    """BERT with the next-sentence head alone. The configuration needs pooling "pooler"."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.nsp = nn.Linear(config.num_features, 2)
        draw_head(self.nsp)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `BertModel.forward`; labels int64 [B] give the mean cross-entropy as loss; logits [B, 2]."""
        output = self.encoder(input_ids, attention_mask, token_type_ids, plans, position_ids)
        return classified(output, self.nsp, labels)


class BertForSequenceClassification(BertHeadModel):
    """BERT with a linear classifier on the pooled rows."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.drop = nn.Dropout(config.drop_rate)
        self.head = classifier(config.num_features, config.num_labels)
        draw_head(self.head)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `BertModel.forward`; labels int64 [B] give the mean cross-entropy as loss; logits [B, num_labels]."""
        output = self.encoder(input_ids, attention_mask, token_type_ids, plans, position_ids)
        output.pooler_output = self.drop(output.pooler_output)
        return classified(output, self.head, labels)


class BertForTokenClassification(BertHeadModel):
    """BERT with a linear classifier on every row."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.drop = nn.Dropout(config.drop_rate)
        self.head = classifier(config.num_features, config.num_labels)
        draw_head(self.head)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `BertModel.forward`; labels of the shape of input_ids, -100 where nothing is asked, give the mean
        cross-entropy as loss; logits [B, S, num_labels] (0 at padding) or [T, num_labels]."""
        rows, text = encoded(self.encoder, input_ids, attention_mask, token_type_ids, plans, position_ids)
        logits = self.head(self.drop(rows))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits, labels.flatten()[text.places], ignore_index=IGNORED)
        return EncoderOutput(loss=loss, logits=padded_like(logits, input_ids, text.places))
