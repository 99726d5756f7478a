"""Where the prompt is: counted as sentence-transformers counts it, and marked in masks of any padding."""

import json

import numpy as np

from st_plugins_export import export_onnx
from st_plugins_export.layout import MANIFEST_FILE
from st_plugins_export.opened import OpenedExport
from st_plugins_export.prompt_marks import count_prompt, marked


def test_special_tokens_in_front_belong_to_the_prompt_and_one_behind_does_not():
    assert count_prompt([2, 30, 31, 3], {2, 3}) == 3
    assert count_prompt([2, 30, 31], {2, 3}) == 3
    assert count_prompt([30, 3, 3], {2, 3}) == 2
    assert count_prompt([], {2, 3}) == 0


def test_marks_are_where_slow_loops_put_them():
    generator = np.random.default_rng(0)
    for side in ("right", "left"):
        for prompt_length in (0, 1, 3, 9):
            lengths = generator.integers(1, 7, size=5)
            mask = np.array([[1] * length + [0] * (6 - length) for length in lengths])
            mask = mask[:, ::-1] if side == "left" else mask
            expected = []
            for row in mask.tolist():
                left, marks = prompt_length, []
                for value in row:
                    marks.append(2 if value and left else value)
                    left -= bool(value and left)
                expected.append(marks)
            assert marked(mask, prompt_length).tolist() == expected


def test_prompts_have_the_length_that_sentence_transformers_gives_them(build, tmp_path):
    model = build(include_prompt=False, truncation_side="left", padding_side="left", layers=1)
    export_onnx(model, tmp_path / "out", show_progress=False)
    opened = OpenedExport(tmp_path / "out")
    for prompt in ("find: ", "a", "the cats [MASK]", "word ends in [SEP]", "🌍", " ", "word " * 40):
        assert opened.prompt_length(prompt) == model.preprocess(["cats"], prompt=prompt)["prompt_length"], prompt
    assert opened.prompt_length("") == 0


def test_a_model_that_pools_prompts_has_no_marks(exported):
    assert OpenedExport(exported).prompt_length("find: ") == 0
    assert "special_ids" not in json.loads((exported / MANIFEST_FILE).read_text())
