"""Question-document pairs without a download: the documentation of the Python that runs this."""

import ast
import inspect
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

# Tests and vendored copies repeat the documentation of others.
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "_vendor", "idlelib", "lib2to3", "site-packages"})
_SHORTEST_QUESTION = 20  # characters
_SHORTEST_DOCUMENT = 80
_LONGEST_DOCUMENT = 2000  # the model reads no further


@dataclass(frozen=True)
class Pair:
    """One documented function or class.

    Args:
        module: Where it was found; pairs of one module are never split between train and held-out.
        question: Qualified name in words, and the first line of the docstring.
        document: The rest of the docstring.
        source: File and line.
    """

    module: str
    question: str
    document: str
    source: str


def read_pairs(packages: tuple[str, ...]) -> list[Pair]:
    """Read the docstrings of the standard library and of installed packages; nothing is imported.

    Args:
        packages: Names of installed packages; missing ones are left out.

    Returns:
        list[Pair]: Without duplicates, in a fixed order.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    site = Path(sysconfig.get_paths()["purelib"])
    files = [(library, file) for file in _python_files(library)]
    for package in packages:
        files += [(site, file) for file in _python_files(site / package)]
    pairs: dict[str, Pair] = {}
    for root, file in tqdm(files, desc="reading docstrings", unit="file"):
        for pair in _pairs_of_file(root, file):
            pairs.setdefault(pair.document, pair)
    return list(pairs.values())


def split_by_module(pairs: list[Pair], *, train: int, held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Shuffle whole modules, then fill the held-out part first.

    Returns:
        tuple: ``train`` and ``held_out`` pairs, from different modules; fewer if there are not enough.
    """
    modules = sorted({pair.module for pair in pairs})
    random.Random(seed).shuffle(modules)
    by_module: dict[str, list[Pair]] = {module: [] for module in modules}
    for pair in pairs:
        by_module[pair.module].append(pair)
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for module in modules:
        part = parts[1] if len(parts[1]) < held_out else parts[0]
        part.extend(by_module[module])
    random.Random(seed).shuffle(parts[0])
    return parts[0][:train], parts[1][:held_out]


def _python_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.py")) if not _SKIPPED_FOLDERS & set(file.relative_to(folder).parts)]


def _pairs_of_file(root: Path, file: Path) -> Iterator[Pair]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # a template or a file in another encoding, not documentation
    module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for name, node in _definitions(tree, ""):
        docstring = ast.get_docstring(node)
        summary, _, rest = (docstring or "").partition("\n")
        rest = inspect.cleandoc(rest)[:_LONGEST_DOCUMENT]
        question = f"{name}: {summary.strip()}"
        if len(question) >= _SHORTEST_QUESTION and len(rest) >= _SHORTEST_DOCUMENT and summary.strip():
            yield Pair(module, question, rest, f"{module}:{node.lineno}")


def _definitions(
    tree: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")
