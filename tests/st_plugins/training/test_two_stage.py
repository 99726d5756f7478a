import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from st_plugins.errors import InputError, LossError
from st_plugins.losses import ElasticLoss
from st_plugins.losses.given_negatives import GivenNegativesLoss
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from st_plugins.training.example_labels import class_examples
from st_plugins.training.instructions import instruction_prompt
from st_plugins.training.lora import add_lora, merge_lora
from st_plugins.training.two_stage import two_stage_trainer
from tokenizer_cases import sentence_piece, speaking

ANIMALS = ["the cat sat", "a dog ran", "a cat and a dog", "the dog sat on it"]
PLACES = ["the red tree", "under the blue tree", "the mat", "a blue mat and a red mat"]
PAIRS = {"anchor": ANIMALS, "positive": ["cat sat on the mat", "dog fast", "dog and cat", "dog on the mat"]}
CLASSES = class_examples([*ANIMALS, *PLACES], ["animal"] * 4 + ["place"] * 4, num_negatives=2)

# Training on CPU tensors warns that there is no accelerator to pin memory for.
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


def retrieval():
    return {"facts": Dataset.from_dict(PAIRS)}


def blended():
    return {
        "facts": Dataset.from_dict({**PAIRS, "negative": PLACES}),
        "classes": Dataset.from_dict(CLASSES),
    }


@pytest.fixture
def arguments(tmp_path):
    def build(**options):
        return SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"),
            **{
                "per_device_train_batch_size": 4,
                "max_steps": 15,
                "learning_rate": 1e-3,
                "save_strategy": "no",
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
                "dataloader_pin_memory": False,
                **options,
            },
        )

    return build


@torch.no_grad()
def value(trainer, datasets):
    """The trainer's loss on every row, as its collator makes them."""
    trainer.model.eval()
    total = 0.0
    for name, dataset in datasets.items():
        batch = trainer.data_collator([{**row, "dataset_name": name} for row in dataset])
        batch.pop("dataset_name")
        total += trainer.loss(*trainer.collect_features(batch)).item()
    return total


def test_each_stage_has_its_loss_and_its_batches(plain, arguments):
    args = arguments()
    first = two_stage_trainer(plain, args, retrieval(), stage="retrieval", scale=30.0)
    second = two_stage_trainer(plain, args, blended(), stage="blended", scale=40.0)
    assert type(first.loss) is MultipleNegativesRankingLoss
    assert type(second.loss) is GivenNegativesLoss
    assert (first.loss.scale, second.loss.scale) == (30.0, 40.0)
    assert first.args.batch_sampler == BatchSamplers.NO_DUPLICATES
    assert second.args.batch_sampler == BatchSamplers.BATCH_SAMPLER
    assert args.batch_sampler == BatchSamplers.BATCH_SAMPLER
    assert first.model is second.model is plain


def test_the_arguments_are_kept(plain, arguments):
    class Sampler:
        """Named instead of the default one."""

    args = arguments(batch_sampler=Sampler, seed=9)
    evaluator = EmbeddingSimilarityEvaluator(ANIMALS, PLACES, [0.0] * 4)
    trainer = two_stage_trainer(
        plain, args, retrieval(), stage="retrieval", eval_dataset=retrieval(), evaluator=evaluator
    )
    assert trainer.evaluator is evaluator
    assert trainer.args.batch_sampler is Sampler
    assert trainer.args.seed == 9
    assert list(trainer.eval_dataset) == ["facts"]


def test_one_stage_after_the_other_lowers_the_loss_of_each(minilm, arguments):
    for name, parameter in minilm.named_parameters():
        parameter.requires_grad_("layer.5." in name)  # the last block is enough, and fast
    for stage, data in (("retrieval", DatasetDict(retrieval())), ("blended", blended())):
        trainer = two_stage_trainer(minilm, arguments(learning_rate=1e-3, max_steps=3), data, stage=stage)
        start = value(trainer, data)
        trainer.train()
        assert value(trainer, data) < 0.6 * start


def test_texts_of_one_class_come_together_only_without_negatives_of_the_batch(tokenizer, arguments):
    """What the second stage is for: in-batch negatives push texts of one class apart."""
    classes = {"classes": Dataset.from_dict(CLASSES)}
    args = arguments(max_steps=60, learning_rate=0.1, batch_sampler=BatchSamplers.BATCH_SAMPLER)
    farthest = {}
    for stage in ("retrieval", "blended"):
        torch.manual_seed(0)
        model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16), Normalize()], device="cpu")
        two_stage_trainer(model, args, classes, stage=stage).train()
        embeddings = [torch.as_tensor(model.encode(texts)) for texts in (ANIMALS, PLACES)]
        farthest[stage] = min((side @ side.T).min().item() for side in embeddings)
    assert farthest["blended"] > farthest["retrieval"] + 0.2
    assert (embeddings[0] @ embeddings[1].T).max() < farthest["blended"]


def test_prompts_reach_their_dataset_and_column_and_no_other(plain, arguments):
    plain.set_pooling_include_prompt(False)
    data = blended()
    prompt = instruction_prompt(plain, "find the cat", ANIMALS)
    args = arguments(prompts={"facts": {"anchor": prompt}})
    trainer = two_stage_trainer(plain, args, data, stage="blended")
    batches = {name: trainer.data_collator([{**row, "dataset_name": name} for row in data[name]]) for name in data}
    found = {name: [key for key in batch if key.endswith("prompt_length")] for name, batch in batches.items()}
    assert found == {"facts": ["anchor_prompt_length"], "classes": []}
    text = plain.tokenizer.decode(batches["facts"]["anchor_input_ids"][0], skip_special_tokens=True)
    assert text.split()[-3:] == ["the", "cat", "sat"]
    trainer.train()


@pytest.mark.slow
def test_nv_embeds_pooling_is_trained_with_instructions(plain, arguments):
    pooling = LatentAttentionPooling(16, num_latents=3, num_heads=2, head_dim=4, include_prompt=False)
    model = SentenceTransformer(modules=[plain[0], pooling, Normalize()], device="cpu")
    latents = pooling.latents.detach().clone()
    args = arguments(prompts={"facts": {"anchor": instruction_prompt(model, "find the cat", ANIMALS)}})
    for stage, data in (("retrieval", retrieval()), ("blended", blended())):
        two_stage_trainer(model, args, data, stage=stage).train()
        assert not torch.equal(pooling.latents, latents)
        latents = pooling.latents.detach().clone()


@pytest.mark.slow
def test_lora_is_trained_through_both_stages_and_merged(plain, arguments, texts):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    add_lora(plain, rank=4)
    frozen = plain[0].model.encoder.layer[0].output.dense.base_layer.weight.clone()
    for stage, data in (("retrieval", retrieval()), ("blended", blended())):
        before = plain.eval().encode(texts)
        two_stage_trainer(plain, arguments(), data, stage=stage).train()
        assert abs(plain.eval().encode(texts) - before).max() > 1e-3
    assert torch.equal(plain[0].model.encoder.layer[0].output.dense.base_layer.weight, frozen)
    vectors = plain.encode(texts)
    merge_lora(plain)
    assert abs(plain.encode(texts) - vectors).max() < 1e-5


def test_an_elastic_model_trains_its_sizes_too(model, arguments):
    trainer = two_stage_trainer(model, arguments(max_steps=2), blended(), stage="blended")
    trainer.loss = ElasticLoss(model, trainer.loss, sizes=[(2, 8)])
    trainer.train()
    assert {tuple(size) for size in model[0].sizes} == {(2, 8), (4, 16)}


def test_cached_gradients_are_for_the_first_stage(plain, arguments):
    trainer = two_stage_trainer(plain, arguments(), retrieval(), stage="retrieval", mini_batch_size=2, scale=30.0)
    assert type(trainer.loss) is CachedMultipleNegativesRankingLoss
    assert (trainer.loss.mini_batch_size, trainer.loss.scale) == (2, 30.0)
    with pytest.raises(LossError, match="mini_batch_size is for in-batch negatives, got 2 in the blended stage"):
        two_stage_trainer(plain, arguments(), blended(), stage="blended", mini_batch_size=2)


def test_texts_in_the_wide_string_type_are_texts(plain, arguments):
    wide = retrieval()["facts"].cast(Features({"anchor": Value("large_string"), "positive": Value("large_string")}))
    assert list(two_stage_trainer(plain, arguments(), {"facts": wide}, stage="retrieval").train_dataset) == ["facts"]


def test_an_unknown_stage_is_refused(plain, arguments):
    with pytest.raises(LossError, match=r'stage must be "retrieval" or "blended", got 2'):
        two_stage_trainer(plain, arguments(), retrieval(), stage=2)


def test_datasets_without_names_are_refused(plain, arguments):
    with pytest.raises(LossError, match=r"must name its datasets, got a Dataset. Pass \{"):
        two_stage_trainer(plain, arguments(), retrieval()["facts"], stage="retrieval")


@pytest.mark.parametrize(
    ("stage", "columns", "message"),
    [
        (
            "retrieval",
            {"text": ["a"]},
            r"retrieval stage needs .* anchor and positive; dataset 'x' has \['text'\]. Make",
        ),
        ("blended", PAIRS, r"blended stage needs .*at least one negative; dataset 'x' has \['anchor', 'positive'\]"),
        ("blended", {**PAIRS, "score": [1.0] * 4}, r"and no texts in \['score'\]. Make them with class_examples"),
        ("retrieval", {**PAIRS, "label": [1] * 4}, r"and no texts in \['label'\]"),
    ],
)
def test_other_columns_are_refused(plain, arguments, stage, columns, message):
    with pytest.raises(LossError, match=message):
        two_stage_trainer(plain, arguments(), {"x": Dataset.from_dict(columns)}, stage=stage)


@pytest.mark.parametrize(
    ("prompts", "wrong"),
    [
        ({"fact": {"anchor": "a "}}, "fact"),
        ({"facts": {"query": "a "}}, "query"),
        ({"facts": {"negative_1": "a "}}, "negative_1"),
        ({"query": "a "}, "query"),
    ],
)
def test_a_prompt_for_nothing_is_refused(plain, arguments, prompts, wrong):
    with pytest.raises(LossError, match=rf"args.prompts has \['{wrong}'\], the datasets are .*'facts': \['anchor', "):
        two_stage_trainer(plain, arguments(prompts=prompts), blended(), stage="blended")


@pytest.mark.parametrize("prompts", ["a ", {"anchor": "a "}, {"facts": "a "}, {"facts": {"anchor": "a "}}, None])
def test_every_form_of_prompts_that_the_host_takes_is_taken(plain, arguments, prompts):
    plain.set_pooling_include_prompt(False)
    trainer = two_stage_trainer(plain, arguments(prompts=prompts), blended(), stage="blended")
    assert trainer.data_collator.prompts == prompts


@pytest.mark.parametrize("prompts", ["{}", {"anchor": "{}"}, {"facts": "{}"}, {"facts": {"anchor": "{}"}}])
def test_a_prompt_that_takes_a_word_along_is_refused_and_the_advice_helps(plain, arguments, prompts):
    words = {"anchor": ["cats are red", "a tree"], "positive": ["red cats", "a red tree"]}
    data = {"facts": Dataset.from_dict(words)}
    model = speaking(plain, sentence_piece())
    model = SentenceTransformer(
        modules=[model[0], Pooling(16, "mean", include_prompt=False), Normalize()], device="cpu"
    )

    def filled(prompt):
        if isinstance(prompts, str):
            return prompt
        return {
            name: {column: prompt for column in inner} if isinstance(inner, dict) else prompt
            for name, inner in prompts.items()
        }

    with pytest.raises(LossError, match=r"'Query: ' it would cut into 'cats are red'. Make the prompt with"):
        two_stage_trainer(model, arguments(prompts=filled("Query: ")), data, stage="retrieval")
    prompt = instruction_prompt(model, "find cats", words["anchor"])
    two_stage_trainer(model, arguments(prompts=filled(prompt)), data, stage="retrieval")
    # Where the prompt stays in the pooling, no token of a text is lost.
    model[1].include_prompt = True
    two_stage_trainer(model, arguments(prompts=filled("Query: ")), data, stage="retrieval")


def test_a_prompt_as_long_as_the_text_limit_is_refused(plain, arguments):
    plain.set_pooling_include_prompt(False)
    plain.max_seq_length = 6
    args = arguments(prompts={"facts": {"anchor": "the cat sat on the mat "}})
    with pytest.raises(InputError, match="leave room for the text, this one fills all of max_seq_length=6 tokens"):
        two_stage_trainer(plain, args, retrieval(), stage="retrieval")
