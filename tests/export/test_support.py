"""What cannot be exported is refused by name, before any work."""

from tempfile import TemporaryDirectory

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Module,
    Pooling,
    Router,
    Transformer,
)

import chat_cases
import families
import st_plugins
from st_plugins.errors import ExportError, UnsupportedModelError
from st_plugins.long_texts import self_extend
from st_plugins.modules import PromptReps
from st_plugins_export import export_onnx

WIDTH = 32


class Foreign(Module):
    """Somebody else's."""

    def forward(self, features):
        return features

    def save(self, output_path):
        pass


def _foreign(build):
    return SentenceTransformer(modules=[Foreign()], device="cpu")


def _router(build):
    return build(behind=[Router.for_query_document([Dense(WIDTH, 8)], [Dense(WIDTH, 8)])])


def _without_pooling(build):
    return SentenceTransformer(modules=[build()[0]], device="cpu")


def _prompt_reps(build):
    with TemporaryDirectory() as folder:
        reps = PromptReps(str(chat_cases.save_chat_model(folder)))
    return SentenceTransformer(modules=[reps], device="cpu")


def _elastic_without_pooling(build):
    return SentenceTransformer(modules=[st_plugins.elastic(build())[0]], device="cpu")


def _changed(change):
    def make(build):
        model = build()
        change(model)
        return model

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_foreign, "must be a Transformer, a StaticEmbedding or a Router, got Foreign, which has not been tried"),
        (_router, "got Router, which must be the first module of a model"),
        (_prompt_reps, "got PromptReps, which writes a chat around every text"),
        (_without_pooling, "must have a pooling, got none"),
        (_elastic_without_pooling, "must have a pooling, got none"),
        (
            lambda build: build(behind=[Foreign()]),
            "must be Pooling, .* LayerNorm, Dropout, Normalize, got Foreign, which has not been tried",
        ),
        (lambda build: build().to(torch.float64), r"must be float32, float16 or bfloat16, got \['torch.float64'\]"),
        (_changed(lambda model: setattr(model[0], "query_length", 8)), r"Transformer\(query_length=8\) cannot"),
        (_changed(lambda model: setattr(model[0], "backend", "onnx")), "must run on torch, got backend='onnx'"),
        (_changed(lambda model: setattr(model[0], "modality_config", {"message": {}})), "must read plain text"),
        (_changed(lambda model: setattr(model.tokenizer, "pad_token", None)), "has no padding token"),
        (_changed(lambda model: setattr(model[0], "processor", object())), "tokenizers library, got NoneType"),
        (_changed(lambda model: setattr(model[0].auto_model, "config", None)), "must say num_hidden_layers"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(build, tmp_path, make, message):
    with pytest.raises(UnsupportedModelError, match=message):
        export_onnx(make(build), tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_tensor_over_two_gigabytes_is_refused_before_any_work(build, tmp_path, monkeypatch):
    with torch.device("meta"):  # no memory behind it
        huge = Dense(WIDTH, 2**24 + 1)
    model = build()
    model.append(huge)
    monkeypatch.setattr("st_plugins_export.exporter.staged_folder", None)  # work starts there
    with pytest.raises(
        ExportError, match=r"One tensor may have 2 GiB, and 2\.linear\.weight \[16777217, 32\] has 2\.0 GiB"
    ):
        export_onnx(model, tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_other_precisions_of_more_than_two_gigabytes_are_refused_before_any_work(build, tmp_path, monkeypatch):
    model = build()
    with torch.device("meta"):
        for _ in range(2):
            model.append(Dense(WIDTH, 2**23))
    monkeypatch.setattr("st_plugins_export.exporter.staged_folder", None)
    with pytest.raises(ExportError, match=r"less than 2 GiB, the model has 2\.1 GiB\. Leave precisions out"):
        export_onnx(model, tmp_path / "out", precisions=["int8"], show_progress=False)


def test_more_than_two_gigabytes_are_refused(build, tmp_path):
    model = build()
    with torch.device("meta"):
        for _ in range(2):
            model.append(Dense(WIDTH, 10_000_000))
    with pytest.raises(ExportError, match=r"less than 2 GiB of weights, the model has 2\.5 GiB"):
        export_onnx(model, tmp_path / "out", external_data=False, show_progress=False)


def test_a_transformer_with_shared_positions_is_refused(save_tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    families.build("llama").save_pretrained(tmp_path)
    model = SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(WIDTH)], device="cpu")
    longer = self_extend(model, 60, group_size=2, window=8)
    with pytest.raises(UnsupportedModelError, match="got SelfExtendTransformer, which has not been tried as a graph"):
        export_onnx(longer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
