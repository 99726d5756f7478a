"""The short measurement of a report."""

from st_plugins_export.opened import OpenedExport
from st_plugins_export.speeds import relative_speeds


def test_the_first_graph_is_the_measure(lowered, monkeypatch):
    monkeypatch.setattr("st_plugins_export.speeds._MOST_ROUNDS", 3)
    opened = OpenedExport(lowered[0])
    sizes = [size for size in opened.manifest.sizes if size.is_full]
    speeds = relative_speeds(opened, sizes)
    assert speeds[0] == 1.0
    assert all(speed > 0 for speed in speeds)
    told = [exported for exported in opened.manifest.exits if exported.name is None]
    assert len(relative_speeds(opened, told)) == len(told)


def test_one_graph_has_nothing_to_be_compared_with(lowered):
    opened = OpenedExport(lowered[0])
    assert relative_speeds(opened, opened.manifest.sizes[:1]) == [None]
