from st_plugins.evaluation.metric_files import add_rows


def test_rows_are_added_below_one_line_of_headers(tmp_path):
    file = tmp_path / "a" / "b.csv"
    add_rows(file, ["epoch", "name"], [[1, "é, with a comma"]])
    add_rows(file, ["epoch", "name"], [[2, 'a "quote"'], [3, ""]])
    assert file.read_bytes().decode() == 'epoch,name\r\n1,"é, with a comma"\r\n2,"a ""quote"""\r\n3,\r\n'
    assert [path.name for path in file.parent.iterdir()] == ["b.csv"]
