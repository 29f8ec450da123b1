"""Configuration of BERT (Devlin et al., NAACL 2019, arXiv:1810.04805) and RoBERTa (arXiv:1907.11692)."""

from unitrans.models.text import TextConfig, check_published


class BertConfig(TextConfig):
    """Configuration of a BERT encoder; the defaults are BERT-base."""

    model_type = "unitrans-bert"

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in transformers: RoBERTa's with an offset of the positions. ValueError for a
        model that it cannot hold."""
        check_published(self, "post")
        return "roberta" if self.position_offset else "bert"
