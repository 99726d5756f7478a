"""Writes the zip file that register.json beside it describes: graph, weights if they lie beside it, and tokenizer.

OpenSearch compares the file with the hash in register.json, so it has to be this one, byte for byte::

    python serving/opensearch/make_zip.py embedding.zip

It needs only Python.
"""

import shutil
import sys
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_FILES = ("onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json")


def write_zip(export: Path, target: IO[bytes]) -> None:
    """Write the same bytes on every machine: nothing is compressed, and every file is from 1980."""
    with ZipFile(target, "w", ZIP_STORED) as archive:
        for name in filter(lambda name: (export / name).exists(), _FILES):
            entry = ZipInfo(Path(name).name)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            entry.file_size = (export / name).stat().st_size
            with (export / name).open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed, 2**20)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("wb") as file:
        write_zip(Path(__file__).resolve().parent.parent.parent, file)
