"""What training needs besides a loss: examples and batches for it, saved losses, gates, two stages, LoRA, merging."""

from st_plugins.training.example_labels import class_examples, similarity_examples
from st_plugins.training.exit_gates import train_gates
from st_plugins.training.instructions import instruction_prompt
from st_plugins.training.lora import add_lora, merge_lora
from st_plugins.training.loss_state import LossStateCallback
from st_plugins.training.merge_learning import learn_merge
from st_plugins.training.merging import merge_models
from st_plugins.training.modality_negatives import mine_modality_negatives
from st_plugins.training.nested_masking import NestedMaskingCollator
from st_plugins.training.scored_examples import keep_scored
from st_plugins.training.two_stage import two_stage_trainer
from st_plugins.training.word_repetition import WordRepetitionCollator

__all__ = [
    "LossStateCallback",
    "NestedMaskingCollator",
    "WordRepetitionCollator",
    "add_lora",
    "class_examples",
    "instruction_prompt",
    "keep_scored",
    "learn_merge",
    "merge_lora",
    "merge_models",
    "mine_modality_negatives",
    "similarity_examples",
    "train_gates",
    "two_stage_trainer",
]
