"""fastembed: the vectors of an export under every pooling it has, of the finished output, in every precision."""

import json
import sys
from pathlib import Path

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, given, made = map(Path, sys.argv[1:])
texts = json.loads(given.read_text())
dim = json.loads((folder / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"]


def embed(name, pooling, normalization, file="onnx/model.onnx", **options):
    TextEmbedding.add_custom_model(
        model=name,
        pooling=pooling,
        normalization=normalization,
        sources=ModelSource(hf=name),
        dim=dim,
        model_file=file,
        **options,
    )
    model = TextEmbedding(name, specific_model_path=str(folder), threads=1)
    return [vector.tolist() for vector in model.embed(texts, batch_size=4)]


vectors = {"finished": embed("finished", PoolingType.DISABLED, False, output_name="sentence_embedding")}
for pooling in (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST_TOKEN):
    vectors[pooling.name] = embed(pooling.name, pooling, False)
    vectors[f"{pooling.name}, normalized"] = embed(f"{pooling.name}-normalized", pooling, True)
for file in sorted(path.relative_to(folder).as_posix() for path in (folder / "onnx").glob("model_*.onnx")):
    vectors[file] = embed(file, PoolingType.DISABLED, False, file=file, output_name="sentence_embedding")
    vectors[f"{file}, MEAN"] = embed(f"{file}-mean", PoolingType.MEAN, False, file=file)
made.write_text(json.dumps(vectors))
