"""Saves what a loss has learned or remembers with every checkpoint of the trainer, and brings it back.

The trainer saves the model, the optimizer and its own state. Weights and buffers of a loss are in none of them.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from st_plugins.errors import LossError
from st_plugins.weight_digests import weights_digest
from st_plugins.whole_writes import whole_file

FILE_NAME = "loss_state.safetensors"


class LossStateCallback(TrainerCallback):
    """Keeps a loss with the checkpoints: everything in it that is not the model's.

    That is the temperatures of :class:`~st_plugins.losses.IndividualTemperatureLoss`, the queue and the slow copy of
    :class:`~st_plugins.losses.MomentumQueueLoss`, the head and decoder of
    :class:`~st_plugins.losses.MaskedAutoencoderLoss`, and any parameters and persistent buffers of other losses, such
    as the classifier of the host's ``SoftmaxLoss``. ``trainer.train(resume_from_checkpoint=...)`` then goes on as if it
    had not stopped. A checkpoint without the file is refused, and so is one whose model is not the resumed one.

    Args:
        loss: As given to the trainer; ``torch.nn.ModuleList(losses.values())`` for a dict of losses.
        checkpoint: Where to resume from; None takes the folder of the resumed step in the output folder of the
            trainer, which is where it comes from unless somebody moved it.

    Writes: ``loss_state.safetensors`` in each checkpoint, by the first process.

    Raises:
        LossError: When a training resumes and the checkpoint has no such file, or that of another model or loss; when
            it saves and there is no checkpoint, as in a search of hyperparameters.

    Example:
        >>> from st_plugins.losses import MomentumQueueLoss
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = MomentumQueueLoss(model, queue_size=256)
        >>> callbacks = [LossStateCallback(loss)]
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss, callbacks=callbacks)
    """

    def __init__(self, loss: nn.Module, *, checkpoint: str | Path | None = None) -> None:
        self.loss = loss
        self.checkpoint = checkpoint

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **kwargs: Any,  # whatever else the trainer hands to its callbacks
    ) -> None:
        """Restore, where the trainer has restored a step."""
        if state.global_step == 0:
            return
        folder = _folder(args, state) if self.checkpoint is None else Path(self.checkpoint)
        file = folder / FILE_NAME
        if not file.is_file():
            raise LossError(
                f"The checkpoint must hold what the loss had learned, {file} does not exist. Name the folder that the "
                "training is resumed from, LossStateCallback(loss, checkpoint=...); one that was saved without this "
                "callback cannot be resumed with it."
            )
        with safe_open(str(file), framework="pt") as saved:
            found = (saved.metadata() or {}).get("model")
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}
        if found != weights_digest(model):
            raise LossError(
                f"{file} must belong to the model that is resumed, it was saved with another one. Name the folder that "
                "the training is resumed from: LossStateCallback(loss, checkpoint=...)."
            )
        restore(self.loss, tensors, own_state(self.loss, model))

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **kwargs: Any,  # whatever else the trainer hands to its callbacks
    ) -> None:
        """Write the file into the checkpoint that was just made."""
        if not state.is_world_process_zero:
            return
        folder = _folder(args, state)
        if not folder.is_dir():
            raise LossError(
                f"The trainer must save checkpoints in its output folder, {folder} does not exist. In a search of "
                "hyperparameters leave LossStateCallback out."
            )
        tensors = {name: tensor.detach().contiguous() for name, tensor in own_state(self.loss, model).items()}
        with whole_file(folder / FILE_NAME) as unfinished:
            save_file(tensors, str(unfinished), metadata={"model": weights_digest(model)})


def own_state(loss: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a loss that are not the model's; shared ones once.

    Args:
        loss: A loss that holds the model somewhere, wrapped or not.
        model: The model.

    Returns:
        dict: The tensors themselves, by name.

    Example:
        >>> from sentence_transformers.sentence_transformer.losses import SoftmaxLoss
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> sorted(own_state(SoftmaxLoss(model, 384, num_labels=3), model))
        ['classifier.bias', 'classifier.weight']
    """
    seen = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    found = {}
    for name, tensor in loss.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


@torch.no_grad()
def restore(loss: nn.Module, tensors: dict[str, Tensor], current: dict[str, Tensor]) -> None:
    """Put saved tensors into a loss. Parameters keep their identity, which the optimizer knows; a queue may grow.

    Args:
        loss: The loss.
        tensors: By name, as they were saved.
        current: Those that are there now, see :func:`own_state`.

    Raises:
        LossError: If they are not of the same names, or a parameter has another shape.
    """
    wrong = sorted(tensors.keys() ^ current.keys()) + [
        name
        for name, tensor in tensors.items()
        if isinstance(current.get(name), nn.Parameter) and current[name].shape != tensor.shape
    ]
    if wrong:
        raise LossError(
            f"The loss must be the one that was saved, made with the same options, these differ: {', '.join(wrong)}."
        )
    for name, tensor in tensors.items():
        if current[name].shape == tensor.shape:
            current[name].copy_(tensor)
        else:
            path, _, leaf = name.rpartition(".")
            setattr(loss.get_submodule(path), leaf, tensor.to(current[name].device, current[name].dtype))


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
