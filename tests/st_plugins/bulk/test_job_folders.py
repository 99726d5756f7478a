import json

import pytest
from filelock import FileLock

from st_plugins.bulk import BulkReport, JobSettings
from st_plugins.bulk.job_folders import check_job, locked, write_manifest
from st_plugins.bulk.parts import Columns, PartSummary, part_name
from st_plugins.bulk.shards import plan_shards
from st_plugins.errors import BulkError

SETTINGS, COLUMNS = JobSettings("m"), Columns("text", None)


@pytest.fixture
def shards(source):
    return plan_shards(source, shard_rows=2)


@pytest.fixture
def output(tmp_path, shards):
    folder = tmp_path / "out"
    with locked(folder):
        check_job(folder, SETTINGS, COLUMNS, "f" * 64, shards, 16)
    return folder


def test_a_job_is_described_and_recognized(output, shards):
    job = json.loads((output / "_job.json").read_text())
    assert (job["fingerprint"], job["dim"], job["settings"]["model"]) == ("f" * 64, 16, "m")
    before = (output / "_job.json").read_text()
    check_job(output, JobSettings("elsewhere"), COLUMNS, "f" * 64, shards, 16)
    assert (output / "_job.json").read_text() == before


def test_another_model_is_refused_naming_both(output, shards):
    with pytest.raises(
        BulkError, match=f"was begun with another model, size or prompt: .*{'f' * 64}.*{'e' * 64}.*Name"
    ):
        check_job(output, SETTINGS, COLUMNS, "e" * 64, shards, 16)


def test_other_columns_are_refused(output, shards):
    with pytest.raises(BulkError, match=r"was begun with the columns .*'text'.*, got .*'body'"):
        check_job(output, SETTINGS, Columns("body", None), "f" * 64, shards, 16)


def test_parts_of_other_input_are_refused(output, shards, source):
    (output / part_name(shards[0], "f" * 64)).touch()
    check_job(output, SETTINGS, COLUMNS, "f" * 64, shards, 16)
    with pytest.raises(
        BulkError, match=r"holds 1 parts of input that is not there any more or is cut otherwise, part-"
    ):
        check_job(output, SETTINGS, COLUMNS, "f" * 64, plan_shards(source, shard_rows=9), 16)


def test_a_folder_of_something_else_is_refused(tmp_path, shards):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BulkError, match=r"must be empty or hold a bulk job, got .* in it\. Name another folder"):
        check_job(tmp_path, SETTINGS, COLUMNS, "f" * 64, shards, 16)
    for text, message in (("{", "is no JSON"), ("[]", "must say"), ('{"format": "2"}', "written by another version")):
        (tmp_path / "_job.json").write_text(text)
        with pytest.raises(BulkError, match=message):
            check_job(tmp_path, SETTINGS, COLUMNS, "f" * 64, shards, 16)


def test_one_job_at_a_time_and_leftovers_go(output):
    (output / ".part-1.parquet.abcd.unfinished").touch()
    with locked(output):
        assert not list(output.glob("*.unfinished"))
    with (
        FileLock(output / ".lock"),
        pytest.raises(BulkError, match=r"Another job is writing to .*\. Wait until it ends"),
        locked(output),
    ):
        pass


def test_the_report_counts(output):
    part = PartSummary("p", "a", 0, 5, 2, 1, "f", 9, 9, "c", None, None)
    report = BulkReport(output, "f" * 64, 16, (part, part), resumed=1)
    assert (report.rows, report.errors, report.truncated) == (10, 4, 2)
    assert str(report).splitlines()[:2] == [
        "10 rows, parts: 2 (1 were there already), 16 dimensions", "4 without a vector, 2 cut to the model's length",
    ]  # fmt: skip
    write_manifest(report)
    manifest = json.loads((output / "_manifest.json").read_text())
    assert (manifest["rows"], len(manifest["parts"]), manifest["parts"][0]["truncated"]) == (10, 2, 1)
