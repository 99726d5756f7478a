"""What training needs besides a loss: how batches are made for it, and the gates of dynamic exits."""

from st_plugins.training.exit_gates import train_gates
from st_plugins.training.nested_masking import NestedMaskingCollator

__all__ = ["NestedMaskingCollator", "train_gates"]
