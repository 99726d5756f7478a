"""A picture."""

from pathlib import Path

from st_plugins.evaluation.grid import GridPoint
from st_plugins.evaluation.pictures import draw_grid

draw_grid([GridPoint(1, 1, 8, 0.5, 0.5), GridPoint(2, 2, 8, 0.9, 1.0)], "grid.png")
assert Path("grid.png").stat().st_size > 1000
print("ok")
