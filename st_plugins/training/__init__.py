"""What training needs besides a loss: batches made for it, gates of dynamic exits, NV-Embed's two stages, LoRA."""

from st_plugins.training.example_labels import class_examples, similarity_examples
from st_plugins.training.exit_gates import train_gates
from st_plugins.training.instructions import instruction_prompt
from st_plugins.training.lora import add_lora, merge_lora
from st_plugins.training.nested_masking import NestedMaskingCollator
from st_plugins.training.two_stage import two_stage_trainer

__all__ = [
    "NestedMaskingCollator",
    "add_lora",
    "class_examples",
    "instruction_prompt",
    "merge_lora",
    "similarity_examples",
    "train_gates",
    "two_stage_trainer",
]
