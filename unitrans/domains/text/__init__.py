"""Text: files, tables and data sets of the hub as documents, tokenised once and packed without padding."""

from unitrans.domains.text.domain import TextDomain

__all__ = ["TextDomain"]
