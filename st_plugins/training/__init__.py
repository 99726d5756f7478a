"""What training needs besides a loss: how batches are made for it."""

from st_plugins.training.nested_masking import NestedMaskingCollator

__all__ = ["NestedMaskingCollator"]
