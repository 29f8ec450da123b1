"""Images: reading, cropping, packing into patches, simple predictors of hidden pixels, pictures."""

from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.domain import VisionDomain

__all__ = ["DataConfig", "VisionDomain"]
