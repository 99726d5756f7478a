import pytest
import torch

import families
import reference
from pooling_cases import flattened, graph_outputs, padded
from st_plugins.errors import InputError, ShapeError, SizeError, UnsupportedModelError
from st_plugins.modules.multi_layer_pooling import MultiLayerPooling

WIDTH, DEPTH = 6, 3
LENGTHS = (4, 1, 5)


def drawn(width=WIDTH, depth=DEPTH, **options):
    """In double precision, with weights that make every part matter."""
    pooling = MultiLayerPooling(width, depth, **{"num_queries": 4, "num_heads": 3, "head_dim": 2, **options}).double()
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    return pooling


def texts_of(lengths=LENGTHS, width=WIDTH, depth=DEPTH):
    """For each text the states (L + 1, T, D), the embeddings before the first layer included."""
    return [torch.randn(depth + 1, length, width, dtype=torch.float64) for length in lengths]


def features_of(texts, side="right", filling=0.0, length=None, **more):
    layers = [padded(list(layer), side, filling, length) for layer in zip(*texts, strict=True)]
    states, mask = tuple(tokens for tokens, _ in layers), layers[0][1]
    return {"token_embeddings": states[-1], "all_layer_embeddings": states, "attention_mask": mask, **more}


def embed(pooling, texts, *args, **more):
    return pooling(features_of(texts, *args, **more))["sentence_embedding"]


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
@pytest.mark.parametrize("normalized", [True, False])
def test_it_is_the_formula(layer_pooling, normalized):
    pooling = drawn(layer_pooling=layer_pooling, normalize_layers=normalized)
    texts = texts_of()
    weights = {name: value.tolist() for name, value in pooling.state_dict().items()}
    expected = [
        reference.multi_layer_pooling(text[1:].tolist(), weights, 3, 2, layer_pooling == "lasttoken", normalized)
        for text in texts
    ]
    found = embed(pooling, texts)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-11)


def test_uniform_attention_by_hand():
    pooling = MultiLayerPooling(2, 3, num_queries=2, num_heads=1, head_dim=2)
    with torch.no_grad():
        for parameter in (*pooling.feed_forward.contract.parameters(), pooling.cross_attention.to_queries.weight):
            parameter.zero_()
        pooling.cross_attention.to_values.weight.copy_(torch.eye(2))
        pooling.cross_attention.to_output.weight.copy_(torch.eye(2))
        pooling.layer_positions.zero_()
        pooling.queries.copy_(torch.tensor([[5.0, 7.0], [1.0, 1.0]]))
    # Layer means (3, 1), (2, 0), (0, 2), normalised (1, -1), (1, -1), (-1, 1), on average (1/3, -1/3).
    states = torch.tensor([[[9, 9], [9, 9]], [[2, 1], [4, 1]], [[0, 0], [4, 0]], [[0, 1], [0, 3]]]).float()
    assert torch.allclose(embed(pooling, [states]), torch.tensor([[3 + 1 / 3, 4 - 1 / 3]]), atol=1e-4)


def test_without_positions_the_order_of_layers_is_not_seen():
    pooling, text = drawn(), texts_of()[0]
    shuffled = text[[0, 3, 1, 2]]
    assert not torch.allclose(embed(pooling, [text]), embed(pooling, [shuffled]), atol=1e-3)
    torch.nn.init.zeros_(pooling.layer_positions)
    assert torch.allclose(embed(pooling, [text]), embed(pooling, [shuffled]), atol=1e-12)


def test_of_one_layer_the_queries_choose_nothing():
    pooling, texts = drawn(depth=1), texts_of(depth=1)
    before = embed(pooling, texts)
    torch.nn.init.normal_(pooling.cross_attention.to_queries.weight)
    torch.nn.init.normal_(pooling.cross_attention.query_norm.weight)
    assert torch.allclose(embed(pooling, texts), before, atol=1e-13)


@pytest.mark.parametrize(("width", "depth", "queries", "heads", "head_dim"), [(6, 3, 4, 3, 2), (8, 1, 1, 1, 5)])
def test_the_parameters_are_as_many_as_the_formula_says(width, depth, queries, heads, head_dim):
    pooling = drawn(width, depth, num_queries=queries, num_heads=heads, head_dim=head_dim)
    expected = (queries + depth) * width + 4 * width * heads * head_dim + 12 * width**2 + 15 * width
    assert sum(parameter.numel() for parameter in pooling.parameters()) == expected


def test_at_the_papers_size_it_is_the_papers():
    with torch.device("meta"):
        pooling = MultiLayerPooling(4096, 32)
    assert (pooling.num_queries, pooling.num_heads, pooling.head_dim) == (768, 32, 2048)
    assert sum(parameter.numel() for parameter in pooling.parameters()) == 1_278_406_656


@pytest.mark.parametrize("width", [1, 2, 5, 16, 384, 1000])
def test_the_defaults_fit_any_width(width):
    pooling = MultiLayerPooling(width, 2)
    assert embed(pooling, [text.float() for text in texts_of(width=width, depth=2)]).shape == (3, width)


def test_with_nothing_read_every_text_is_the_mean_of_the_queries():
    pooling = drawn()
    for parameter in (pooling.cross_attention.to_output.weight, *pooling.feed_forward.contract.parameters()):
        torch.nn.init.zeros_(parameter)
    assert torch.allclose(embed(pooling, texts_of()), pooling.queries.mean(0).expand(3, -1), atol=1e-12)


def test_normalized_layers_weigh_alike_whatever_their_size():
    texts = [1e3 * text for text in texts_of()]
    scaled = [text * torch.tensor([1.0, 1e4, 1.0, 1.0], dtype=torch.float64)[:, None, None] for text in texts]
    pooling = drawn()
    assert torch.allclose(embed(pooling, scaled), embed(pooling, texts), atol=1e-4)
    pooling.normalize_layers = False
    assert not torch.allclose(embed(pooling, scaled), embed(pooling, texts), atol=1e-2)


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("filling", [0.0, 1e30, float("nan")])
def test_padding_changes_nothing(layer_pooling, side, filling):
    pooling, texts = drawn(layer_pooling=layer_pooling), texts_of()
    expected = torch.cat([embed(pooling, [text]) for text in texts])
    assert torch.allclose(embed(pooling, texts, side, filling, 9), expected, atol=1e-12)


def test_the_last_token_is_the_last_real_one():
    pooling, text = drawn(layer_pooling="lasttoken"), texts_of()[0]
    other = text.clone()
    other[:, :-1] += 1.0
    assert torch.equal(embed(pooling, [text], "right", 5.0, 7), embed(pooling, [other], "left", 5.0, 9))
    other[:, -1, 0] += 1.0
    assert not torch.allclose(embed(pooling, [text]), embed(pooling, [other]), atol=1e-3)


def test_the_embeddings_before_the_first_layer_are_not_read():
    pooling, text = drawn(), texts_of()[0]
    other = text.clone()
    other[0] = float("nan")
    assert torch.equal(embed(pooling, [text]), embed(pooling, [other]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [2, torch.tensor([2]), torch.tensor([2, 2, 2])])
def test_the_prompt_is_left_out(side, length):
    pooling, texts = drawn(include_prompt=False), texts_of((4, 3, 6))
    expected = torch.cat([embed(pooling, [text[:, 2:]]) for text in texts])
    assert torch.allclose(embed(pooling, texts, side, prompt_length=length), expected, atol=1e-12)
    pooling.include_prompt = True
    everything = torch.cat([embed(pooling, [text]) for text in texts])
    assert torch.allclose(embed(pooling, texts, side, prompt_length=length), everything, atol=1e-12)


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_flattened_inputs_are_pooled_like_padded_ones(layer_pooling, include_prompt):
    pooling, texts = drawn(layer_pooling=layer_pooling, include_prompt=include_prompt), texts_of((4, 3, 6))
    layers = [flattened(list(layer)) for layer in zip(*texts, strict=True)]
    states = tuple(tokens for tokens, _ in layers)
    features = {"token_embeddings": states[-1], "all_layer_embeddings": states, "cu_seq_lens_q": layers[0][1]}
    found = pooling({**features, "prompt_length": 2})["sentence_embedding"]
    assert torch.allclose(found, embed(pooling, texts, prompt_length=2), atol=1e-12)


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
def test_a_row_without_tokens_gives_zeros(layer_pooling):
    pooling = drawn(include_prompt=False, layer_pooling=layer_pooling)
    features = features_of(texts_of(), prompt_length=1)
    features["attention_mask"][2] = 0
    found = pooling(features)["sentence_embedding"]
    assert (found[1:] == 0).all()
    assert found[0].abs().max() > 0
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


def test_gradients_are_those_of_finite_differences():
    pooling = drawn(4, 2, num_queries=2, num_heads=1)
    features = features_of(texts_of((2, 3), 4, 2))
    names = [name for name, _ in pooling.named_parameters()]

    def pooled(first, second, *parameters):
        states = (features["all_layer_embeddings"][0], first, second)
        inputs = {**features, "all_layer_embeddings": states}
        found = torch.func.functional_call(pooling, dict(zip(names, parameters, strict=True)), (inputs,))
        return found["sentence_embedding"]

    inputs = (*features["all_layer_embeddings"][1:], *(value.detach() for value in pooling.parameters()))
    assert torch.autograd.gradcheck(pooled, tuple(value.clone().requires_grad_() for value in inputs))


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_close(dtype, layer_pooling):
    pooling = MultiLayerPooling(WIDTH, DEPTH, layer_pooling=layer_pooling)
    texts = [100 * text.to(dtype) for text in texts_of((2000, 700))]  # sums beyond float16
    expected = embed(pooling, [text.float() for text in texts])
    assert embed(pooling, texts).dtype == dtype
    found = embed(pooling.to(dtype), texts)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=0.05)


def test_of_a_decoder_it_reads_the_last_real_token_of_every_layer():
    network = families.build("llama")
    ids, mask = families.batch()
    with torch.no_grad():
        states = network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    pooling = MultiLayerPooling(32, 4, layer_pooling="lasttoken")
    features = {"token_embeddings": states[-1], "all_layer_embeddings": states, "attention_mask": mask}
    found = pooling(features)["sentence_embedding"]
    for row, last in enumerate((6, 11, 11)):  # padded on the right, on the left, not at all
        alone = torch.stack(states)[:, row, last : last + 1]
        assert torch.allclose(found[row], embed(pooling, [alone])[0], atol=1e-5)
    # Why layers are normalised: only the last state has passed the final norm.
    assert states[4].std() > 10 * states[3].std()


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
def test_the_graph_has_the_same_vectors(tmp_path, layer_pooling):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pooling = drawn(layer_pooling=layer_pooling).float()

        def forward(self, states, mask):
            layers = states.unbind(2)
            features = {"token_embeddings": layers[-1], "all_layer_embeddings": layers, "attention_mask": mask}
            return self.pooling(features)["sentence_embedding"]

    wrapper = Wrapper()
    batches = []
    for lengths, side in (((4, 2), "right"), ((3, 1, 7, 5), "left")):
        features = features_of([text.float() for text in texts_of(lengths)], side)
        batches.append({"states": torch.stack(features["all_layer_embeddings"], 2), "mask": features["attention_mask"]})
    batches[1]["mask"][1] = 0
    found = graph_outputs(wrapper, *batches, tmp_path / "model.onnx")
    assert torch.allclose(found, wrapper(**batches[1]), atol=1e-4)


def test_with_some_hidden_states_it_says_so_too():
    features = features_of(texts_of())
    features["all_layer_embeddings"] = (None, None, *features["all_layer_embeddings"][2:])
    with pytest.raises(UnsupportedModelError, match="needs the hidden states of all layers, and got none or not all"):
        drawn()(features)


def test_states_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"\(embedding_dimension=6\) needs hidden states .*, got \(1, 4, 8\)"):
        embed(drawn(), texts_of((4,), width=8))


@pytest.mark.parametrize("name", ["embedding_dimension", "num_layers", "num_queries", "num_heads", "head_dim"])
def test_sizes_that_cannot_be_are_refused(name):
    with pytest.raises(SizeError, match=f"MultiLayerPooling needs a positive integer {name}, got -1"):
        MultiLayerPooling(**{"embedding_dimension": 4, "num_layers": 2, name: -1})


def test_an_unknown_layer_pooling_is_refused():
    with pytest.raises(InputError, match=r"one of \('mean', 'lasttoken'\), got 'cls'"):
        MultiLayerPooling(4, 2, layer_pooling="cls")
