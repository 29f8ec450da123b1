"""Configuration of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from unitrans.models.text import TextConfig, TextNorm, TextPooling, check_published
from unitrans.nn import Activation


class Gpt2Config(TextConfig):
    """Configuration of a GPT-2 encoder; the defaults are the smallest published one."""

    model_type = "unitrans-gpt2"
    causal = True

    vocab_size: int = 50257
    max_position_embeddings: int = 1024
    type_vocab_size: int = 0
    activation: Activation = "gelu_tanh"
    pooling: TextPooling = "last"
    norm: TextNorm = "pre"
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = None

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in transformers. ValueError for a model that it cannot hold."""
        check_published(self, "pre")
        return "gpt2"
