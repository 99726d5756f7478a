import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models

import st_plugins
from st_plugins import fingerprint
from st_plugins.errors import ExitError, SizeError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.fingerprints import _canonical
from st_plugins.identity import with_precision


def test_it_is_the_same_after_saving_and_loading(model, tmp_path, texts):
    before = fingerprint(model)
    assert len(before) == 64
    model.encode(texts)
    assert fingerprint(model) == before
    model.save_pretrained(tmp_path)
    assert fingerprint(st_plugins.load(tmp_path)) == before


def test_the_full_size_is_the_model_itself(model):
    assert fingerprint(model) == fingerprint(model, layer=4) == fingerprint(model, dim=16)
    sizes = {fingerprint(model, layer=layer, dim=dim) for layer in (1, 2, 3, 4) for dim in (4, 8, 16)}
    assert len(sizes) == 12


def test_a_layer_that_does_not_exist_has_none(model, plain):
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4"):
        fingerprint(model, layer=9)
    with pytest.raises(SizeError, match="Only an elastic model has layers to choose from, got layer=2"):
        fingerprint(plain, layer=2)


@pytest.mark.parametrize("dim", [0, 17, True])
def test_a_dim_that_does_not_exist_has_none(model, plain, dim):
    for either in (model, plain):
        with pytest.raises(SizeError, match="dim must be an integer from 1 to 16"):
            fingerprint(either, dim=dim)


def test_sizes_it_was_trained_for_do_not_change_it(model):
    before = fingerprint(model)
    model[0].add_sizes([(2, 8)])
    assert fingerprint(model) == before


def change_weight(model):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-7


def change_tokenizer(model):
    model.tokenizer.add_tokens(["brandnew"])


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_tokenizer,
        lambda model: model.prompts.update(query="query: "),
        lambda model: setattr(model, "default_prompt_name", "query"),
        lambda model: setattr(model, "max_seq_length", 8),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: setattr(model[1], "pooling_mode", ("max",)) or setattr(model[1], "include_prompt", False),
        lambda model: model.bfloat16(),
        lambda model: setattr(model[0].model.config, "layer_norm_eps", 1e-3),
        lambda model: setattr(model.tokenizer, "padding_side", "left"),
    ],
)
def test_everything_that_changes_a_vector_changes_it(model, change):
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before


def test_weights_no_vector_depends_on_do_not_count(tiny_folder):
    # The folder has no pooler, so each load makes up another one.
    pair = [SentenceTransformer(modules=[Transformer(str(tiny_folder)), Pooling(16, "mean")]) for _ in range(2)]
    assert not torch.equal(*(model[0].model.pooler.dense.weight for model in pair))
    assert fingerprint(pair[0]) == fingerprint(pair[1])


def test_another_precision_has_another_one(model):
    before = fingerprint(model)
    assert fingerprint(model, precision="fp32") == before
    others = [fingerprint(model, precision=name) for name in ("fp16", "int8")]
    assert len({before, *others}) == 3
    assert others[0] == with_precision(before, "fp16") != fingerprint(model, layer=2, precision="fp16")


def test_a_plain_model_has_one_too(plain):
    assert fingerprint(plain) == fingerprint(plain)


def test_what_decides_the_exits_changes_it(model):
    model[0].add_sizes([(1, 16), (2, 16)])
    before = fingerprint(model)
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, 4), weights="ab"))
    assert fingerprint(model) == before
    assert fingerprint(model, exit="mine") == fingerprint(model, exit=0.5) != before
    others = [fingerprint(model, exit=0.6), fingerprint(model, exit="mine", layer=2), fingerprint(model, layer=2)]
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(2), 0.5, (1, 2, 3, 4)))
    others.append(fingerprint(model, exit="mine"))
    assert len({before, fingerprint(model, exit=0.5), *others}) == 6


def test_exits_that_are_not_there_have_none(model, plain):
    with pytest.raises(ExitError, match=r"Only an elastic model has exits, got exit='mine'"):
        fingerprint(plain, exit="mine")
    with pytest.raises(ExitError, match="a policy of this model"):
        fingerprint(model, exit="mine")


def static(**words):
    tokenizer = Tokenizer(models.WordLevel({"cats": 0, "sleep": 1, "[UNK]": 2, **words}, unk_token="[UNK]"))
    torch.manual_seed(1)
    return StaticEmbedding(tokenizer, embedding_dim=16)


def test_the_tokenizer_of_static_embeddings_counts(tmp_path):
    model = SentenceTransformer(modules=[static()], device="cpu")
    before = fingerprint(model)
    assert before != fingerprint(SentenceTransformer(modules=[static(cats=1, sleep=0)], device="cpu"))
    model[0].tokenizer.enable_truncation(1)
    assert fingerprint(model) != before
    model[0].tokenizer.no_truncation()
    model.save_pretrained(str(tmp_path))
    assert fingerprint(SentenceTransformer(str(tmp_path), device="cpu")) == before


def test_all_that_is_on_a_route_counts(plain):
    def routed(query, document, **options):
        router = Router({"query": query, "document": document}, default_route="document", **options)
        return fingerprint(SentenceTransformer(modules=[router], device="cpu"))

    document = list(plain.children())
    before = routed([static()], document)
    assert routed([static()], document) == before
    assert routed([static(cats=1, sleep=0)], document) != before
    assert routed([static()], document[:2]) != before
    assert routed([static()], document, route_mappings={("query", "text"): "query"}) != before
    plain[0].auto_model.config.layer_norm_eps = 0.1
    assert routed([static()], document) != before


def test_a_set_among_the_settings_has_no_order(model):
    """Whose order is another one in every process, as strings are hashed anew."""
    names = ["one", "two", "three", "four", "five"]
    found = {_canonical({"names": kind(order)}) for kind in (set, frozenset) for order in (names, names[::-1])}
    assert found == {b'{"names": ["five", "four", "one", "three", "two"]}'}
