"""Real texts of mixed length without a download: docstrings of Python's standard library."""

import ast
import random
import sysconfig
from pathlib import Path


def docstrings(count: int) -> list[str]:
    """Half of them first lines, half whole; the same ones on every machine with this Python."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                texts.append(text.splitlines()[0] if len(texts) % 2 else text)
    return random.Random(0).sample(texts, count)
