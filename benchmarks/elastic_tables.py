"""Tables of ``elastic_training.py``, from the scores it keeps."""

import json
import statistics
from pathlib import Path

_SIMILARITY = ("stsb", "sick")

Result = dict
Grid = dict[str, float]


def print_tables(folder: Path, dims: list[int], separate_sizes: list[tuple[int, int]]) -> None:
    """Everything that was measured so far, as Markdown."""
    results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    whole = {name: result for name, result in results.items() if not name.startswith("separate")}
    steps = next(iter(results.values()))["scale"]["steps"]
    print(f"\nTrained for {steps} steps. Sizes are layer x dim, scores in percent.")
    _print_means(whole)
    _print_sizes(results, separate_sizes)
    for name, result in whole.items():
        _print_grid(f"{name}, Spearman, mean of STSb and SICK", similarity(result), dims)
        _print_grid(f"{name}, nDCG@10, mean of the retrieval sets", retrieval(result), dims)
    _print_crossed(whole)
    _print_cost(results)


def similarity(result: Result) -> Grid:
    """Mean of the similarity sets for every size."""
    return _mean([result["scores"][name] for name in _SIMILARITY])


def retrieval(result: Result, suffix: str = "") -> Grid:
    """Mean of the retrieval sets for every size; suffix ``", crossed"`` for full-depth documents."""
    return _mean([grid for name, grid in result["scores"].items() if _is_retrieval(name, suffix)])


def _is_retrieval(name: str, suffix: str) -> bool:
    return name not in _SIMILARITY and name.endswith(", crossed") == bool(suffix)


def _mean(grids: list[Grid]) -> Grid:
    return {size: statistics.mean(grid[size] for grid in grids) for size in grids[0]}


def _largest(grid: Grid) -> str:
    return max(grid, key=lambda size: tuple(map(int, size.split("x"))))


def _print_means(whole: dict[str, Result]) -> None:
    print("\n| method | STS, mean of sizes | STS, full size | retrieval, mean of sizes | retrieval, full size |")
    print("|---|---|---|---|---|")
    for name, result in whole.items():
        grids = similarity(result), retrieval(result)
        cells = " | ".join(f"{statistics.mean(grid.values()):.1f} | {grid[_largest(grid)]:.1f}" for grid in grids)
        print(f"| {name} | {cells} |")


def _print_sizes(results: dict[str, Result], sizes: list[tuple[int, int]]) -> None:
    """Every method at the sizes that were also trained separately."""
    names = [f"{layer}x{dim}" for layer, dim in sizes]
    separate = {name: results[f"separate {name}"] for name in names if f"separate {name}" in results}
    for title, grid_of in (("Spearman", similarity), ("nDCG@10", retrieval)):
        print(f"\n| {title} at | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        if len(separate) == len(names):
            print("| one model each | " + " | ".join(f"{grid_of(separate[n])[n]:.1f}" for n in names) + " |")
        for method, result in results.items():
            if not method.startswith("separate"):
                print(f"| {method} | " + " | ".join(f"{grid_of(result)[name]:.1f}" for name in names) + " |")


def _print_grid(title: str, grid: Grid, dims: list[int]) -> None:
    layers = sorted({int(size.split("x")[0]) for size in grid})
    print(f"\n{title}\n\n| layer | {' | '.join(f'dim {dim}' for dim in dims)} |\n|---|{'---|' * len(dims)}")
    for layer in layers:
        print(f"| {layer} | " + " | ".join(f"{grid[f'{layer}x{dim}']:.1f}" for dim in dims) + " |")


def _print_crossed(whole: dict[str, Result]) -> None:
    """Shallow queries, full-depth documents, full width."""
    depth, width = map(int, _largest(similarity(next(iter(whole.values())))).split("x"))
    print("\nnDCG@10 of queries at layer k against full-depth documents, full width, mean of the retrieval sets\n")
    print(f"| method | {' | '.join(f'k = {layer}' for layer in range(1, depth + 1))} |\n|---|{'---|' * depth}")
    for name, result in whole.items():
        grid = retrieval(result, ", crossed")
        print(f"| {name} | " + " | ".join(f"{grid[f'{layer}x{width}']:.1f}" for layer in range(1, depth + 1)) + " |")


def _print_cost(results: dict[str, Result]) -> None:
    """One run each, minutes apart: where the machine is shared, ``bench_loss.py`` compares more fairly."""
    print("\n| method | seconds per step | peak memory in training (MiB) |\n|---|---|---|")
    for name, result in results.items():
        cells = (result.get(key) for key in ("seconds per step", "peak mebibytes"))
        print(f"| {name} | " + " | ".join("-" if cell is None else f"{cell:.2f}" for cell in cells) + " |")
