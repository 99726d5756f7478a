"""Stages: run some blocks, let rows leave, run the next blocks on the rows that are left.

Which rows leave, and after which layer, is the caller's choice. A depth that is the same for every row is cheaper as a
view, see :mod:`st_plugins.views`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from st_plugins.blocks import BlockStack, check_layer, find_blocks, follow
from st_plugins.errors import ShapeError, SizeError, UnsupportedModelError
from st_plugins.modes import evaluating
from st_plugins.views import StandIn, normed_layers, view

# Rotary tables of these kinds depend on the largest position in the batch: dropping columns would change them.
_LENGTH_DEPENDENT_ROTARY = {"dynamic", "longrope"}


class StagedRun:
    """One forward pass of one batch, with rows leaving on the way.

    With R_k the rows that reach block k, and a_k(R) what the model's own code prepares for block k and rows R (masks,
    rotary tables, relative biases)::

        x_0 = embedding(R_1)          x_k = block_k(x_(k-1)[R_k], a_k(R_k))          R_1 >= R_2 >= ... >= R_L

    To learn a_1 ... a_L the model is called with recorders in place of its blocks, which costs an embedding. It is
    called when the run is made, which runs block 1 too, and again when rows have left: the model builds every mask and
    table itself for the very rows it serves, nothing is cut to size here. T5 computes its biases in block 1 and so runs
    that block again. Columns in which no row that is left has a token are dropped.

    A run belongs to one batch. It leaves the model as it is, so several threads can run one model at once.

    Args:
        model: A ``PreTrainedModel`` that :func:`~st_plugins.blocks.find_blocks` accepts.
        inputs: What its forward takes: ``input_ids`` and usually ``attention_mask``, all tensors (B, T), position_ids
            perhaps (1, T). Values that are no tensors are passed on as they are.

    Attributes:
        rows: (B',) where the current rows were in ``inputs``, ascending.
        layer: The layer they are at, in [1, L].
        depth: L.

    Raises:
        ShapeError: If a tensor has another shape.
        UnsupportedModelError: If inputs are unpadded, or if the model does more between its blocks than hand hidden
            states on. What it does after the last one is left to :func:`check_stages`.

    References:
        Rows that leave at different layers: DeeBERT, https://arxiv.org/abs/2004.12993. Recorders: ours.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> run = StagedRun(model[0].model, model.tokenizer(["One", "Two or more"], padding=True, return_tensors="pt"))
        >>> token_embeddings, attention_mask = run.to(2)
        >>> token_embeddings.shape
        torch.Size([2, 5, 384])
        >>> run.keep(torch.tensor([True, False]))
        >>> run.to(6)[0].shape, run.rows.tolist()
        (torch.Size([1, 3, 384]), [0])
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self._model = model
        self._stack = find_blocks(model)
        self.depth = self._stack.depth
        self._inputs = _checked_inputs(inputs)
        input_ids = self._inputs["input_ids"]
        self.rows = torch.arange(len(input_ids), device=input_ids.device)
        self.layer = 1
        self._pass = _Pass()
        self._recording = _recording(model, self._stack, self._pass)
        self._record()
        self._has_dropped_rows = False
        self._hidden_states = _hidden_states(self._pass.output)  # (B', T', D), before the final norm
        if self._hidden_states.shape[:2] != input_ids.shape:
            raise _unfit(model, f"its hidden states are of shape {tuple(self._hidden_states.shape)}")

    def to(self, layer: int) -> tuple[Tensor, Tensor]:
        """Run the current rows up to a layer.

        Args:
            layer: In [1, L], not below the one they are at.

        Returns:
            tuple: Token embeddings (B', T', D) after the family's final norm, and the attention mask (B', T') to pool
            them with.

        Raises:
            SizeError: If the layer does not exist or lies behind.
        """
        check_layer(layer, self.depth)
        if layer < self.layer:
            raise SizeError(f"layer must be at least {self.layer}, where the rows are, got {layer}. Make another run.")
        if layer > self.layer and len(self.rows):
            if self._has_dropped_rows:
                self._pass.restart()
                self._record()
                self._has_dropped_rows = False
            for block in self._pass.blocks[self.layer : layer]:
                self._run(block)
        self.layer = layer
        mask = self._inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(self._inputs["input_ids"])
        return normed_layers(self._model, [self._hidden_states], self._stack)[0], mask

    def keep(self, mask: Tensor) -> None:
        """Let rows leave.

        Args:
            mask: (B',) booleans, True for the current rows that go on; they may all be False.

        Raises:
            ShapeError: If it is not one boolean per current row.
        """
        if mask.dtype != torch.bool or mask.shape != self.rows.shape:
            raise ShapeError(
                f"mask must be torch.bool of shape {tuple(self.rows.shape)}, one entry per row that is left, got "
                f"{mask.dtype} of shape {tuple(mask.shape)}."
            )
        mask = mask.to(self.rows.device)
        if bool(mask.all()):
            return
        for name, value in self._inputs.items():
            if isinstance(value, Tensor) and len(value) == len(mask):
                self._inputs[name] = value[mask]
        self.rows = self.rows[mask]
        self._hidden_states = self._hidden_states[mask]
        self._has_dropped_rows = True
        self._drop_empty_columns()

    def _record(self) -> None:
        """Let the model prepare its blocks for the current rows."""
        self._recording(**self._inputs)
        if len(self._pass.blocks) != self.depth or not self._pass.is_plain:
            raise _unfit(self._model, f"it does more than call {self.depth} blocks, each on the output of the last")

    @cached_property
    def _needs_every_column(self) -> bool:
        kinds: set[Any] = set()
        for module in self._model.modules():
            kind = getattr(module, "rope_type", None)
            kinds.update(kind.values() if isinstance(kind, dict) else [kind])
        return not kinds.isdisjoint(_LENGTH_DEPENDENT_ROTARY)

    def _drop_empty_columns(self) -> None:
        mask = self._inputs.get("attention_mask")
        if mask is None or self._needs_every_column:
            return
        columns = mask.any(dim=0).nonzero()
        if not len(columns):
            return
        start, stop = int(columns[0]), int(columns[-1]) + 1
        if start > 0 and "position_ids" in inspect.signature(self._model.forward).parameters:
            # A model that counts columns itself would count the rest from 0.
            self._inputs.setdefault("position_ids", torch.arange(mask.shape[1], device=mask.device)[None])
        for name, value in self._inputs.items():
            if isinstance(value, Tensor):
                self._inputs[name] = value[:, start:stop]
        self._hidden_states = self._hidden_states[:, start:stop]

    def _run(self, block: Callable[[Tensor], Any]) -> None:
        output = block(self._hidden_states)
        pairs = zip_longest(_others(output), _others(self._pass.output))
        if any(recorded is not None and other is not recorded for other, recorded in pairs):
            raise _unfit(self._model, "each block computes something else for the next one, too")
        self._hidden_states = _hidden_states(output)


@torch.no_grad()
def check_stages(model: nn.Module, input_ids: Tensor) -> None:
    """Prove on a few tokens that an architecture computes in stages what it computes at once.

    Three rows, padded left, right and not at all, are run layer by layer; then so that only the first, and only the
    second, goes on after layer 1.

    Args:
        model: A ``PreTrainedModel``.
        input_ids: (1, T) token ids, T >= 2.

    Raises:
        UnsupportedModelError: If the last layer is not the output of the model.
    """
    ids = input_ids.repeat(3, 1)
    mask = torch.ones_like(ids)
    mask[0, 0] = mask[1, -1] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    with evaluating(model):
        expected = model(**inputs)[0]
        for rows in ([0, 1, 2], [0], [1]):
            states, left = _layer_by_layer(StagedRun(model, inputs), torch.tensor(rows, device=ids.device))
            wanted = expected[rows][mask[rows].bool()]
            difference = float((states[left.bool()] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-9))
            if not difference <= (1e-4 if states.dtype in (torch.float32, torch.float64) else 5e-2):
                raise _unfit(model, f"that would change its output (relative difference {difference:.1e})")


def _layer_by_layer(run: StagedRun, rows: Tensor) -> tuple[Tensor, Tensor]:
    run.keep(torch.isin(run.rows, rows))
    for layer in range(1, run.depth):
        run.to(layer)
    return run.to(run.depth)


class _Pass:
    """What a call of the model shows to the recorders."""

    def __init__(self) -> None:
        self.output: Any = None  # of every block, as far as the model can tell; None: block 1 has to be run to know
        self.blocks: list[Callable[[Tensor], Any]] = []  # with all they are given besides hidden states
        self.is_plain = True  # whether blocks are handed the very hidden states that the one before them returned

    def restart(self) -> None:
        """Forget the call. What block 1 returned stays if the model hands nothing of it on but hidden states."""
        self.blocks = []
        if any(other is not None for other in _others(self.output)):
            self.output = None

    def forget_others_except(self, used: tuple[Any, ...]) -> None:
        """Keep of what block 1 returns besides hidden states only what the model hands to block 2."""
        if isinstance(self.output, tuple):
            others = (other if any(other is one for one in used) else None for other in self.output[1:])
            self.output = (self.output[0], *others)


class _Recorder(StandIn):
    """Notes what its block is called with, and returns hidden states as they came."""

    def __init__(self, block: nn.Module, seen: _Pass) -> None:
        super().__init__(block)
        self.seen = seen

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # what the family gives its blocks
        seen, block = self.seen, self.block
        if seen.blocks:
            seen.is_plain &= hidden_states is _hidden_states(seen.output)
            if len(seen.blocks) == 1:
                seen.forget_others_except((*args, *kwargs.values()))
        elif seen.output is None:
            seen.output = block(hidden_states, *args, **kwargs)
        else:
            seen.output = (hidden_states, *_others(seen.output)) if isinstance(seen.output, tuple) else hidden_states
        seen.blocks.append(lambda states: block(states, *args, **kwargs))  # without self: a cycle would keep tensors
        return seen.output


def _recording(model: nn.Module, stack: BlockStack, seen: _Pass) -> nn.Module:
    """The model with recorders in place of its blocks."""
    recording = view(model, stack.depth)  # copies along the path, which are ours to change
    parent, name = (stack.path, "albert_layer_groups") if stack.is_shared else (stack.path[:-1], stack.path[-1])
    blocks: Any = getattr(follow(model, parent), name)
    setattr(follow(recording, parent), name, nn.ModuleList(_Recorder(block, seen) for block in blocks))
    for length in range(len(parent) + 1):
        config = follow(recording, parent[:length]).__dict__.get("config")
        for option in ("use_cache", "output_attentions"):
            if getattr(config, option, False):
                setattr(config, option, False)
    return recording


def _unfit(model: nn.Module, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(model).__name__} cannot run in stages: {reason}. Its blocks must hand on hidden states (B, T, D) and "
        "nothing else, except what block 1 computes for all. Use a fixed layer, or add support in st_plugins/stages.py."
    )


def _hidden_states(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _others(output: Any) -> tuple[Any, ...]:
    return output[1:] if isinstance(output, tuple) else ()


def _checked_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    if "cu_seq_lens_q" in inputs:
        raise UnsupportedModelError(
            "Rows can only leave padded inputs, got flattened (unpadded) ones. Set model[0].unpad_inputs = False."
        )
    input_ids = inputs.get("input_ids")
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or not len(input_ids):
        came = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise ShapeError(f"input_ids must be a tensor (B, T) of at least one row, got {came}.")
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.shape == input_ids.shape:
            continue
        if name != "position_ids" or value.shape != input_ids[:1].shape:
            raise ShapeError(
                f"{name} must have the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(value.shape)}."
            )
    return dict(inputs)
