"""NV-Embed's training in two stages: retrieval first, with in-batch negatives, then all tasks, without them.

A stage is the host's own trainer with the loss and the batches of that stage; nothing runs here.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import nn

from st_plugins.errors import LossError
from st_plugins.losses.given_negatives import GivenNegativesLoss
from st_plugins.training.instructions import joined_text

# Columns a row must have: a stage without in-batch negatives needs negatives of its own.
_FEWEST_COLUMNS = {"retrieval": 2, "blended": 3}
# Enough to meet most ways in which a tokenizer joins a word with what stands before it.
_TEXTS_PER_PROMPT = 64


def two_stage_trainer(
    model: SentenceTransformer,
    args: SentenceTransformerTrainingArguments,
    train_dataset: Mapping[str, Any],
    *,
    stage: Literal["retrieval", "blended"],
    scale: float = 20.0,
    mini_batch_size: int | None = None,
    eval_dataset: Any = None,
    evaluator: Any = None,
) -> SentenceTransformerTrainer:
    """The trainer of one stage. Call it twice with the same model, ``"retrieval"`` first.

    ========================  ==================================================  ==================================
    stage                     loss                                                data
    ========================  ==================================================  ==================================
    ``"retrieval"``           ``MultipleNegativesRankingLoss``: other rows of     retrieval sets, with hard negatives
                              the batch are negatives too                         where there are some
    ``"blended"``             :class:`~st_plugins.losses.GivenNegativesLoss`:     the same, and classification,
                              each row has its own negatives only                 clustering and similarity
    ========================  ==================================================  ==================================

    In the first stage no text comes twice in a batch, unless ``args`` name another batch sampler. A batch is of one
    dataset, as ever in sentence-transformers. For an elastic model, train its sizes too:
    ``trainer.loss = ElasticLoss(model, trainer.loss)``.

    Args:
        model: May have been given LoRA before, see :func:`~st_plugins.training.add_lora`.
        args: As ever: learning rate, batch size, steps. ``prompts`` holds the instructions as {dataset: {column:
            prompt}}, each of :func:`~st_plugins.training.instruction_prompt`; NV-Embed instructs queries and no
            passages.
        train_dataset: By name. The columns of each are texts in this order: anchor, positive, negatives.
        stage: Which one.
        scale: Of the cosines in both losses, 1 / temperature.
        mini_batch_size: Caches gradients in the first stage: memory of this many texts, negatives of the whole batch.
        eval_dataset: As for the trainer.
        evaluator: The same.

    Returns:
        SentenceTransformerTrainer: For ``.train()``.

    Raises:
        LossError: If there is no such stage, datasets have no names, one has too few or other columns than texts, a
            prompt is for no dataset or column, the pooling would leave out other tokens than the prompt's, or gradients
            are to be cached in the second stage.
        InputError: If a prompt leaves no room for a text.
        UnsupportedModelError: If a prompt is to be left out and the model cannot count its tokens.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428. Hard negatives there score at most 0.95 of the
        positive. What we could not verify is left to ``args`` and ``scale``: temperature, learning rates, batch sizes.

    Example:
        >>> from datasets import Dataset
        >>> from sentence_transformers import SentenceTransformerTrainingArguments
        >>> from sentence_transformers.util import mine_hard_negatives
        >>> from st_plugins.training.instructions import instruction_prompt
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
        >>> mined = mine_hard_negatives(
        ...     Dataset.from_dict({"anchor": ["cat", "rain"], "positive": ["a small pet", "water from clouds"]}),
        ...     model, relative_margin=0.05, num_negatives=1, output_format="n-tuple", verbose=False,
        ... )
        >>> prompt = instruction_prompt(model, "Find the definition", mined["anchor"])
        >>> args = SentenceTransformerTrainingArguments("out", prompts={"words": {"anchor": prompt}}, report_to="none")
        >>> first = two_stage_trainer(model, args, {"words": mined}, stage="retrieval")
        >>> second = two_stage_trainer(model, args, {"words": mined}, stage="blended")
        >>> type(first.loss).__name__, type(second.loss).__name__
        ('MultipleNegativesRankingLoss', 'GivenNegativesLoss')
    """
    if stage not in _FEWEST_COLUMNS:
        raise LossError(f'stage must be "retrieval" or "blended", got {stage!r}. They are trained in this order.')
    if not isinstance(train_dataset, Mapping):
        raise LossError(
            f'train_dataset must name its datasets, got a {type(train_dataset).__name__}. Pass {{"name": dataset}}.'
        )
    for name, dataset in train_dataset.items():
        _check_columns(name, dataset, stage)
    _check_prompts(model, args.prompts, train_dataset)
    args = copy.copy(args)
    if stage == "retrieval" and args.batch_sampler == BatchSamplers.BATCH_SAMPLER:
        args.batch_sampler = BatchSamplers.NO_DUPLICATES
    return SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=dict(train_dataset),
        eval_dataset=eval_dataset,
        evaluator=evaluator,
        loss=_stage_loss(model, stage, scale, mini_batch_size),
    )


def _stage_loss(model: SentenceTransformer, stage: str, scale: float, mini_batch_size: int | None) -> nn.Module:
    if stage == "retrieval" and mini_batch_size is None:
        return MultipleNegativesRankingLoss(model, scale=scale)
    if stage == "retrieval":
        return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch_size)
    if mini_batch_size is not None:
        raise LossError(
            f"mini_batch_size is for in-batch negatives, got {mini_batch_size} in the blended stage. Set "
            "gradient_accumulation_steps in args: without such negatives it gives the same gradient."
        )
    return GivenNegativesLoss(model, scale=scale)


def _check_columns(name: str, dataset: Any, stage: str) -> None:
    columns, features = dataset.column_names, dataset.features or {}
    others = [column for column in features if getattr(features[column], "dtype", "") not in ("string", "large_string")]
    if others or len(columns) < _FEWEST_COLUMNS[stage]:
        needed = "anchor, positive and at least one negative" if stage == "blended" else "anchor and positive"
        raise LossError(
            f"The {stage} stage needs columns of texts alone, {needed}; dataset {name!r} has {columns}"
            f"{f', and no texts in {others}' if others else ''}. Make them with class_examples, similarity_examples or "
            "sentence_transformers.util.mine_hard_negatives."
        )


def _check_prompts(model: SentenceTransformer, prompts: Any, datasets: Mapping[str, Any]) -> None:
    """A name that does not fit would silently train without the prompt, a prompt that does not fit on other tokens."""
    known = {column for dataset in datasets.values() for column in dataset.column_names}
    for name, prompt in prompts.items() if isinstance(prompts, dict) else ():
        columns = datasets[name].column_names if name in datasets else known
        wrong = [] if name in {*datasets, *known} else [name]
        wrong += [column for column in prompt if column not in columns] if isinstance(prompt, dict) else []
        if wrong:
            raise LossError(
                f"Each prompt must be for a dataset or a column, args.prompts has {wrong}, the datasets are "
                f"{ {name: dataset.column_names for name, dataset in datasets.items()} }. Correct the name."
            )
    if all(getattr(module, "include_prompt", True) for module in model.children()):
        return
    for name, column, prompt in _prompted(prompts, datasets):
        texts = [row[column] for row in islice(datasets[name], _TEXTS_PER_PROMPT)]
        joined = joined_text(model, prompt, texts)
        if joined is not None:
            raise LossError(
                f"The pooling must leave out the tokens of a prompt and no others, with {prompt!r} it would cut into "
                f"{joined[:60]!r}. Make the prompt with instruction_prompt."
            )


def _prompted(prompts: Any, datasets: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Dataset, column and prompt, by the trainer's own rules: for all, by column, by dataset, or by both."""
    for name, dataset in datasets.items():
        own = prompts.get(name, prompts) if isinstance(prompts, dict) else prompts
        for column in dataset.column_names:
            prompt = own.get(column) if isinstance(own, dict) else own
            if prompt and isinstance(prompt, str):
                yield name, column, prompt
