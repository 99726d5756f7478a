from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.errors import ExitError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exit_policies import Certificate, ExitPolicy
from st_plugins.exit_run import ExitRun
from st_plugins.weight_digests import weights_digest


@pytest.fixture
def trained(model):
    """Trained at every layer, and a policy that lets about half of the texts leave early."""
    model[0].add_sizes([(1, 16), (2, 8), (2, 16), (3, 8), (4, 8)])
    model[0].add_exit_policy(ExitPolicy("half", Saturation(), 0.29, (1, 2, 3, 4)))
    return model


def exits(model, texts, **options):
    with torch.no_grad():
        return model.eval()(model.preprocess(texts, **options), **options)


def test_each_text_has_the_vector_of_the_layer_it_left_at(trained, texts):
    layers = exits(trained, texts, exit="half")["exit_layer"].tolist()
    assert len(set(layers)) > 1
    vectors = trained.encode(texts, exit="half")
    for text, layer, vector in zip(texts, layers, vectors, strict=True):
        assert np.allclose(vector, trained.encode(text, layer=layer), atol=1e-6)


def test_exits_do_not_depend_on_the_batch(trained):
    words = "the a cat dog sat ran on under mat tree red blue".split()
    texts = [" ".join(words[i % 5 : i % 12 + 1]) or words[i % 12] for i in range(64)]
    expected = np.stack([trained.encode(text, exit="half") for text in texts])
    for batch_size in (2, 7, 64):
        assert np.allclose(trained.encode(texts, exit="half", batch_size=batch_size), expected, atol=1e-6)
    order = np.random.default_rng(0).permutation(64)
    shuffled = [texts[index] for index in order]
    assert np.allclose(trained.encode(shuffled, exit="half", batch_size=5), expected[order], atol=1e-6)


def test_exits_through_queries_documents_and_prompts(trained, texts):
    trained.prompts = {"query": "the red ", "document": "a blue "}
    for encode, prompt in ((trained.encode_query, "the red "), (trained.encode_document, "a blue ")):
        expected = [trained.encode(prompt + text, exit="half") for text in texts]
        assert np.allclose(encode(texts, exit="half"), expected, atol=1e-6)


def test_prompts_are_masked_with_exits_too(plain, texts):
    plain.set_pooling_include_prompt(False)
    model = st_plugins.elastic(plain)
    options = {"prompt": "the red cat ", "allow_untrained": True}
    assert np.allclose(model.encode(texts, exit=-1.0, **options), model.encode(texts, layer=2, **options), atol=1e-6)
    assert not np.allclose(
        model.encode(texts, exit=-1.0, allow_untrained=True), model.encode(texts, layer=2, **options)
    )


def test_a_number_is_a_cosine_at_the_trained_layers(trained, texts):
    out = exits(trained, texts, exit=0.29)
    assert torch.equal(out["exit_layer"], exits(trained, texts, exit="half")["exit_layer"])
    assert np.array_equal(trained.encode(texts, exit=2.0), trained.encode(texts))
    assert exits(trained, texts, exit=-1.0)["exit_layer"].tolist() == [2] * 5


def test_the_deepest_layer_can_be_given(trained, texts):
    free = exits(trained, texts, exit="half")["exit_layer"]
    assert free.max() > 2
    for layer in (1, 2, 3):
        assert torch.equal(exits(trained, texts, exit="half", layer=layer)["exit_layer"], free.clamp(max=layer))


def test_dims_are_those_trained_at_every_exit(trained, texts):
    assert exits(trained, texts, exit="half")["trained_dims"] == ()
    assert exits(trained, texts, exit="half", layer=2)["trained_dims"] == (16,)
    trained[0].add_sizes([(1, 8)])
    assert exits(trained, texts, exit="half")["trained_dims"] == (8,)
    assert trained.encode(texts, exit="half", truncate_dim=8).shape == (5, 8)
    with pytest.raises(UntrainedSizeError, match=r"at this layer, \[8, 16\], got 4"):
        trained.encode(texts, exit="half", truncate_dim=4)


def test_exits_nobody_trained_are_refused(model, texts):
    with pytest.raises(UntrainedSizeError, match="exit needs a model trained at layers below 4 to leave at"):
        model.encode(texts, exit=0.9)
    assert model.encode(texts, exit=0.9, allow_untrained=True).shape == (5, 16)
    model[0].add_exit_policy(ExitPolicy("mine", Saturation(), 0.5, (1, 2, 4)))
    with pytest.raises(UntrainedSizeError, match=r"trained for, \[4\], got 1"):
        model.encode(texts, exit="mine")
    assert model.encode(texts, exit="mine", allow_untrained=True).shape == (5, 16)
    model[0].add_sizes([(2, 16)])
    with pytest.raises(ExitError, match=r"needs at least 3 exits to compare, got layers \[2, 4\]"):
        model.encode(texts, exit=0.9)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", r"a policy of this model, \['half'\], got 'fast'. Make one with st_plugins.exits.calibrate_exits"),
        (1, "name of a policy or a cosine like 0.98, got 1. For the same depth for all texts pass layer="),
        (True, "name of a policy or a cosine"),
        (98.0, r"a number from -1 to 1 \(a cosine\), or 2 .* got 98.0"),
        (float("nan"), "a number from -1 to 1"),
    ],
)
def test_exits_that_mean_nothing_are_refused_before_any_work(trained, texts, value, message):
    with pytest.raises(ExitError, match=message):
        trained.encode(texts, exit=value)
    with pytest.raises(ExitError, match=message):
        trained.preprocess(texts, exit=value)


def test_policies_of_layers_that_do_not_exist_are_refused(model):
    with pytest.raises(SizeError, match="from 1 to 4 .* got 9"):
        model[0].add_exit_policy(ExitPolicy("deep", Saturation(), 0.5, (1, 2, 9)))
    assert model[0].exit_policies == {}


def test_training_mode_is_refused(trained, texts):
    trained.train()
    with pytest.raises(ExitError, match=r"evaluation mode, this one is training. Call model.eval\(\)"):
        trained(trained.preprocess(texts), exit="half")


def test_a_policy_of_other_weights_is_refused(trained, texts):
    trained[0].add_exit_policy(ExitPolicy("tied", Saturation(), 0.29, (1, 2, 3, 4), weights_digest(trained[0].model)))
    expected = trained.encode(texts, exit="tied")
    assert np.array_equal(expected, trained.encode(texts, exit="half"))
    with torch.no_grad():
        trained[0].model.encoder.layer[3].output.dense.weight.mul_(1.001)
    with pytest.raises(ExitError, match=r"exit='tied' must run on the weights it was calibrated.*Calibrate it again"):
        trained.encode(texts, exit="tied")
    assert trained.encode(texts, exit="half").shape == (5, 16)


def test_saved_and_loaded_with_its_policies(trained, texts, tmp_path):
    certificate = Certificate(
        "cosine", 0.05, 0.1, 60, "betting", 0.03, 0.02, 2.5, (0.5, 0.25, 0.125, 0.125), "ab", "cd"
    )
    digest = weights_digest(trained[0].model)
    trained[0].add_exit_policy(ExitPolicy("proved", Saturation(2), 0.25, (1, 2, 3, 4), digest, certificate))
    trained[0].add_exit_policy(ExitPolicy("gated", Gate((1,), ((0.1, 0.2, 0.3, 0.4, 1 / 3),)), 0.25, (1, 4)))
    trained.save_pretrained(tmp_path)
    for again in (st_plugins.load(tmp_path), SentenceTransformer(str(tmp_path), trust_remote_code=True)):
        assert again[0].exit_policies == trained[0].exit_policies
        for name in ("half", "proved", "gated"):
            assert np.array_equal(again.encode(texts, exit=name), trained.encode(texts, exit=name))


def test_without_policies_nothing_is_written_of_them(model):
    assert "exit_policies" not in model[0].get_config_dict()


def test_a_damaged_policy_in_a_folder_says_so(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    file = tmp_path / "sentence_bert_config.json"
    file.write_text(file.read_text().replace('"threshold": 0.29', '"threshold": 5'))
    with pytest.raises(ExitError, match=r"a number from -1 to 1 .* got 5"):
        st_plugins.load(tmp_path)


def test_mixed_exits_from_many_threads_equal_serial_calls(trained, texts):
    calls = [(value, text) for value in ("half", -1.0, 0.9, 2.0) for text in texts] * 4
    expected = {call: trained.encode(call[1], exit=call[0]) for call in calls[:20]}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda call: trained.encode(call[1], exit=call[0]), calls))
    assert all(np.array_equal(result, expected[call]) for result, call in zip(results, calls, strict=True))


def test_exits_keep_half_precision(trained, texts):
    trained.bfloat16()
    out = exits(trained, texts, exit="half")
    assert out["sentence_embedding"].dtype == torch.bfloat16
    assert len(set(out["exit_layer"].tolist())) > 1


def test_flattened_inputs_have_no_exits(trained):
    features = {"input_ids": torch.ones(1, 4, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 4])}
    # The host hands on what the network's forward names; flattened inputs are for networks that take them.
    with pytest.raises(UnsupportedModelError, match="unpad_inputs = False"):
        ExitRun(trained[0].model, trained[0].exit_policies["half"], (1, 2, 4))(**features)
