import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

import reference
import st_plugins
from pooling_cases import flattened, graph_outputs, padded
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules import FixedDimensionalEncoder

QUERY = [[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]
DOCUMENT = [[0.6, 0.8], [0.8, -0.6], [1.0, 0.0]]


def drawn(lengths=(7, 1, 4), width=6):
    return [normalize(torch.randn(length, width, dtype=torch.float64), dim=-1) for length in lengths]


def encode(encoder, tokens, mask=None, task="document", **more):
    features = {"token_embeddings": tokens, **({} if mask is None else {"attention_mask": mask}), **more}
    return encoder(features, task=task)["sentence_embedding"]


def slow(encoder, text, task):
    """By the reference, from the encoder's own random numbers."""
    planes = encoder.planes.double().transpose(1, 2).tolist()
    signs = [None] * encoder.repetitions if encoder.d_proj is None else encoder.signs.transpose(1, 2).tolist()
    return reference.fixed_dimensional_encoding(text.tolist(), planes, signs, task == "query", encoder.fill_empty)


@pytest.fixture
def golden():
    """Two planes, the axes; one repetition."""
    encoder = FixedDimensionalEncoder(2, k_sim=2, d_proj=None, repetitions=1)
    encoder.planes = torch.eye(2, dtype=torch.int16)[None]
    return encoder


def test_two_planes_by_hand(golden):
    query, document = (torch.tensor([rows], dtype=torch.float64) for rows in (QUERY, DOCUMENT))
    of_query, of_document = encode(golden, query, task="query")[0], encode(golden, document)[0]
    expected = torch.tensor([0.0, 0, 1, 0, -0.6, 1.8, 0, 0], dtype=torch.float64)
    assert torch.allclose(of_query, expected)
    # The empty buckets 00 and 10 take the nearest token, and the first of several.
    expected = torch.tensor([0.8, -0.6, 0.9, -0.3, 0.6, 0.8, 0.6, 0.8], dtype=torch.float64)
    assert torch.allclose(of_document, expected)
    assert (of_query @ of_document).item() == pytest.approx(1.98)
    assert reference.maxsim(QUERY, DOCUMENT) == pytest.approx(2.08)


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize(
    ("k_sim", "d_proj", "fill_empty"), [(3, None, True), (4, 5, True), (0, 3, True), (3, 2, False)]
)
def test_it_is_the_formula(task, k_sim, d_proj, fill_empty):
    encoder = FixedDimensionalEncoder(6, k_sim=k_sim, d_proj=d_proj, repetitions=3, fill_empty=fill_empty)
    texts = drawn()
    expected = torch.tensor([slow(encoder, text, task) for text in texts], dtype=torch.float64)
    found = encode(encoder, *padded(texts), task=task)
    assert found.shape[1] == encoder.get_embedding_dimension()
    assert torch.allclose(found, expected, atol=1e-12)


def test_without_projection_the_estimate_never_exceeds_maxsim():
    encoder = FixedDimensionalEncoder(6, k_sim=3, d_proj=None, repetitions=2)
    estimates = []
    for _ in range(30):
        queries, documents = drawn((3, 5, 1)), drawn((8, 2, 1))
        found = encoder.encode_query(queries) @ encoder.encode_document(documents).T / encoder.repetitions
        exact = [[reference.maxsim(q.tolist(), p.tolist()) for p in documents] for q in queries]
        exact = torch.tensor(exact, dtype=torch.float64)
        assert bool((found <= exact + 1e-12).all())
        estimates.append(found / exact)
    # A document of one token fills every bucket with it, so that the estimate is exact.
    assert torch.allclose(torch.stack(estimates)[..., 2], torch.ones(30, 3, dtype=torch.float64))


def test_without_filling_the_bound_fails():
    encoder = FixedDimensionalEncoder(2, k_sim=1, d_proj=None, repetitions=1, fill_empty=False)
    encoder.planes = torch.tensor([[[1], [0]]], dtype=torch.int16)
    query, document = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert (encoder.encode_query([query]) @ encoder.encode_document([document]).T).item() == 0 > -1


def test_queries_add_up_and_documents_average():
    encoder, (first, second) = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=3), drawn((3, 4))
    together = encoder.encode_query([torch.cat([first, second]), 2.5 * first])
    alone = encoder.encode_query([first, second])
    assert torch.allclose(together[0], alone.sum(0))
    assert torch.allclose(together[1], 2.5 * alone[0])
    once, twice = encoder.encode_document([first, torch.cat([first, first])])
    assert torch.allclose(once, twice)


def test_the_count_sketch_keeps_dot_products_on_average():
    queries, documents = drawn((4,)), drawn((9,))
    whole = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=2)
    of_query, of_document = whole.encode_query(queries)[0], whole.encode_document(documents)[0]
    found = []
    for seed in range(150):
        sketching = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=2, final_dim=16, seed=seed)
        sketching.planes, sketching.signs = whole.planes, whole.signs
        found.append((sketching.encode_query(queries) @ sketching.encode_document(documents).T).item())
    found = torch.tensor(found)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - of_query @ of_document) < 4 * error
    by_hand = torch.zeros(16, dtype=torch.float64)
    for place, sign, number in zip(sketching.places, sketching.place_signs, of_query, strict=True):
        by_hand[place] += sign * number
    assert torch.allclose(sketching.encode_query(queries)[0], by_hand)


@pytest.mark.parametrize("task", ["query", "document"])
def test_padding_and_batch_change_nothing(task):
    encoder, texts = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=3, final_dim=40), drawn()
    alone = torch.cat([encode(encoder, text[None], task=task) for text in texts])
    for side in ("right", "left", "both"):
        tokens, mask = padded(texts, side, filling=float("nan"), length=11)
        assert torch.allclose(encode(encoder, tokens, mask, task), alone, atol=1e-12)
    flat, ends = flattened(texts)
    assert torch.allclose(encode(encoder, flat, task=task, cu_seq_lens_q=ends), alone, atol=1e-12)


def test_a_text_without_tokens_is_zeros():
    encoder = FixedDimensionalEncoder(6, k_sim=2, d_proj=4, repetitions=2)
    assert not encoder.encode_document([torch.zeros(0, 6)]).any()
    assert not encoder.encode_document([torch.ones(3, 6), torch.zeros(0, 6)])[1].any()
    assert not encoder.encode_query([torch.zeros(0, 6)]).any()
    assert encoder.encode_query([]).shape == (0, 32)


def test_half_precision_keeps_its_dtype_and_the_buckets():
    encoder, texts = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=3), drawn()
    for dtype in (torch.float16, torch.bfloat16):
        cast = [text.to(dtype) for text in texts]
        expected = encode(encoder, *padded([text.float() for text in cast]))
        found = encode(encoder.to(dtype), *padded(cast))
        assert found.dtype == dtype
        assert torch.allclose(found.float(), expected, atol=torch.finfo(dtype).eps)


def test_a_seed_is_one_encoder():
    first, second = (FixedDimensionalEncoder(3, k_sim=1, d_proj=2, repetitions=2, final_dim=5) for _ in range(2))
    for name, numbers in first.named_buffers():
        assert torch.equal(numbers, second.get_buffer(name))
    other = FixedDimensionalEncoder(3, k_sim=1, d_proj=2, repetitions=2, final_dim=5, seed=1)
    assert not torch.equal(other.planes, first.planes)
    # What is saved decides, but the same numbers from every version of torch would spare people a surprise.
    assert first.planes.flatten().tolist() == [1379, 528, 960, 943, -4599, -763]


def test_the_random_numbers_are_saved_and_the_task_decides(plain, texts, tmp_path):
    encoder = FixedDimensionalEncoder(16, k_sim=3, d_proj=8, repetitions=4, final_dim=100, seed=3)
    encoder.planes += 1  # as from another version of torch
    model = SentenceTransformer(modules=[plain[0], encoder], similarity_fn_name="dot", device="cpu")
    tokens = plain.encode(texts, output_value="token_embeddings")
    queries, documents = model.encode_query(texts, convert_to_tensor=True), model.encode_document(texts)
    assert torch.allclose(queries, encoder.encode_query(tokens), atol=1e-4)
    assert torch.allclose(torch.from_numpy(documents), encoder.encode_document(tokens), atol=1e-4)
    model.save_pretrained(str(tmp_path))
    loaded = st_plugins.load(tmp_path, device="cpu")
    assert loaded.similarity_fn_name == "dot"
    assert loaded.get_embedding_dimension() == 100
    assert torch.equal(loaded[1].planes, encoder.planes)
    assert torch.equal(loaded.encode_query(texts, convert_to_tensor=True), queries)
    assert st_plugins.fingerprint(loaded) == st_plugins.fingerprint(model)
    encoder.planes -= 1
    assert st_plugins.fingerprint(loaded) != st_plugins.fingerprint(model)


@pytest.mark.parametrize("task", ["query", "document"])
def test_a_graph_of_it_gives_the_same_vectors(task, tmp_path):
    encoder = FixedDimensionalEncoder(6, k_sim=3, d_proj=4, repetitions=3, final_dim=40)

    class Graph(torch.nn.Module):
        def forward(self, token_embeddings, attention_mask):
            return encode(encoder, token_embeddings, attention_mask, task)

    traced = dict(zip(("token_embeddings", "attention_mask"), padded([text.float() for text in drawn()]), strict=True))
    others = [text.float() for text in drawn((2, 12, 5, 1))]
    fed = dict(zip(traced, padded(others), strict=True))
    found = graph_outputs(Graph(), traced, fed, tmp_path / "encoder.onnx")
    assert torch.allclose(found, encode(encoder, *fed.values(), task), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"repetitions": 0}, {"d_proj": 1.5}, {"final_dim": -1}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(SizeError, match=f"needs a positive integer {next(iter(wrong))}, got"):
        FixedDimensionalEncoder(6, **wrong)


@pytest.mark.parametrize("k_sim", [-1, 13, 2.0, True])
def test_impossible_numbers_of_planes_are_refused(k_sim):
    with pytest.raises(SizeError, match="needs k_sim from 0 to 12, got"):
        FixedDimensionalEncoder(6, k_sim=k_sim)


def test_another_width_is_refused():
    with pytest.raises(ShapeError, match=r"needs token_embeddings of shape \(batch, tokens, 6\), got \(1, 2, 5\)"):
        FixedDimensionalEncoder(6).encode_query([torch.ones(2, 5)])
