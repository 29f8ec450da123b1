"""What kinds of data unitrans reads. A domain knows files, tokens and how to show them to a person."""

from unitrans.domains.base import Baseline, Domain, Source, get_domain, register_domain

__all__ = ["Baseline", "Domain", "Source", "get_domain", "register_domain"]
