"""unitrans: one Transformer framework for images, language and graphs on one masked attention core.

Importing this package is as light as importing torch: models, domains and the trainer live in
submodules that are imported when they are used.
"""

from unitrans.ops import Plan, attention

__version__ = "0.1.0"
__all__ = ["Plan", "attention", "__version__"]
