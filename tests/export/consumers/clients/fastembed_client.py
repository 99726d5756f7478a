"""fastembed: the vectors of an export under every pooling it has, and of the output that is finished."""

import json
import sys
from pathlib import Path

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, given, made = map(Path, sys.argv[1:])
texts = json.loads(given.read_text())
dim = json.loads((folder / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"]


def embed(name, pooling, normalization, **options):
    TextEmbedding.add_custom_model(
        model=name,
        pooling=pooling,
        normalization=normalization,
        sources=ModelSource(hf=name),
        dim=dim,
        model_file="onnx/model.onnx",
        **options,
    )
    model = TextEmbedding(name, specific_model_path=str(folder), threads=1)
    return [vector.tolist() for vector in model.embed(texts, batch_size=4)]


vectors = {"finished": embed("finished", PoolingType.DISABLED, False, output_name="sentence_embedding")}
for pooling in (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST_TOKEN):
    vectors[pooling.name] = embed(pooling.name, pooling, False)
    vectors[f"{pooling.name}, normalized"] = embed(f"{pooling.name}-normalized", pooling, True)
made.write_text(json.dumps(vectors))
