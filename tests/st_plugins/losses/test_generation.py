import pytest
import torch
from transformers import GPT2Config, GPT2Model

import generation_cases
import reference
import st_plugins
from decoder_cases import DECODERS
from families import but_slow
from generation_cases import POSITIVES, QUERIES, columns, language_model, scores, with_network, words
from st_plugins.bidirectional_attention import bidirectional
from st_plugins.errors import LossError
from st_plugins.losses import generation
from st_plugins.losses.generation import check_generation, passage_log_probs

KINDS = {"causal": lambda model: model, "un-masked": bidirectional}


@pytest.fixture(params=KINDS)
def decoder(request, llama):
    """The same in double precision, causal and un-masked."""
    return KINDS[request.param](llama.double())


def joined(model, queries=QUERIES, passages=POSITIVES):
    """Context and passage of each row, in token ids."""
    contexts, targets = words(model, queries, behind=False), words(model, passages, before=False)
    return list(zip(contexts, targets, strict=True))


@torch.no_grad()
def test_each_token_has_the_score_that_a_reader_of_the_text_before_it_gives(decoder):
    whole = language_model(decoder[0].model)

    def next_logits(read):
        return whole(input_ids=torch.tensor([read])).logits[0, -1].tolist()

    for row, (context, target) in zip(scores(decoder), joined(decoder), strict=True):
        assert context[0] == 2  # the query keeps its [CLS] ...
        assert target[-1] == 3  # ... and the passage its [SEP]; the other two are gone
        assert row.tolist() == pytest.approx(reference.passage_log_probs(next_logits, context, target), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", but_slow(DECODERS, "llama", "gemma3_text"))
@torch.no_grad()
def test_families_score_as_their_language_models(family, kind, tmp_path, tokenizer):
    plain = generation_cases.build(tmp_path, tokenizer, family)
    plain.max_seq_length = 8  # the windows of some
    whole = language_model(plain[0].model)
    model = KINDS[kind](plain)
    queries, passages = ["the cat sat", "a dog ran fast"], ["the mat was blue", "it"]
    for row, (context, target) in zip(scores(model, queries, passages), joined(model, queries, passages), strict=True):
        logits = whole(input_ids=torch.tensor([[*context, *target]])).logits[0, len(context) - 1 : -1]
        expected = logits.log_softmax(dim=-1).gather(1, torch.tensor(target)[:, None])[:, 0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_gemma_caps_its_logits(tmp_path, tokenizer):
    model = generation_cases.build(tmp_path, tokenizer, "gemma2")
    capped = torch.cat(scores(model))
    model[0].model.config.final_logit_softcapping = 0.1
    tight = torch.cat(scores(model))
    assert (tight - capped).abs().max() > 0.1
    # Logits within +-0.1 are nearly uniform.
    assert ((tight + torch.tensor(99.0).log()).abs() <= 0.2).all()


@torch.no_grad()
def test_a_head_of_its_own_is_used_as_it_is(tmp_path, tokenizer):
    model = generation_cases.build(tmp_path, tokenizer, is_tied=False)
    whole = language_model(model[0].model)
    torch.nn.init.normal_(whole.lm_head.weight)
    check_generation(model, whole.lm_head)
    for row, (context, target) in zip(scores(model, head=whole.lm_head), joined(model), strict=True):
        logits = whole(input_ids=torch.tensor([[*context, *target]])).logits[0, len(context) - 1 : -1]
        expected = logits.log_softmax(dim=-1).gather(1, torch.tensor(target)[:, None])[:, 0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_side_of_the_padding_changes_nothing(decoder):
    right, left = columns(decoder, QUERIES, POSITIVES), []
    for column in right:
        lengths = column["attention_mask"].sum(dim=1).tolist()
        shifted = {"input_ids": torch.full_like(column["input_ids"], 9), "attention_mask": None}
        for row, length in enumerate(lengths):
            shifted["input_ids"][row, -length:] = column["input_ids"][row, :length]
        shifted["attention_mask"] = column["attention_mask"].flip(1)
        left.append(shifted)
    assert not torch.equal(left[0]["input_ids"], right[0]["input_ids"])
    for a, b in zip(
        passage_log_probs(decoder[0], *right, None), passage_log_probs(decoder[0], *left, None), strict=True
    ):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_row_scores_the_same_alone_and_among_others(decoder):
    for row, (query, passage) in zip(scores(decoder), zip(QUERIES, POSITIVES, strict=True), strict=True):
        torch.testing.assert_close(scores(decoder, [query], [passage])[0], row, rtol=1e-9, atol=0)


@torch.no_grad()
def test_a_later_token_changes_no_earlier_score_though_the_embedding_sees_it(llama):
    model = bidirectional(llama.double())
    query = ["the cat sat"]
    one, other = "a cat sat on the mat", "a cat sat on the tree"
    first, second = scores(model, query, [one])[0], scores(model, query, [other])[0]
    assert len(first) == 7
    assert torch.equal(first[:5], second[:5])
    assert (first[5:] != second[5:]).all()
    states = [model[0](model.preprocess([text]))["token_embeddings"][0, :5] for text in (one, other)]
    assert ((states[0] - states[1]).abs().amax(dim=-1) > 1e-6).all()


@torch.no_grad()
def test_the_query_changes_every_score(decoder):
    for row, other in zip(scores(decoder), scores(decoder, QUERIES[::-1]), strict=True):
        assert len(row) == len(other)
    changed = [
        not torch.isclose(a, b).any() for a, b in zip(scores(decoder), scores(decoder, QUERIES[::-1]), strict=True)
    ]
    assert changed == [True, False, True]  # the middle one has its own query in both


@torch.no_grad()
def test_a_model_that_embeds_both_ways_still_does_afterwards(llama):
    model = bidirectional(llama)
    before = model.encode(POSITIVES)
    config = model[0].model.config.to_dict()
    model.train()
    scores(model)
    check_generation(model, None)
    assert all(module.training for module in model.modules())
    assert model[0].model.config.to_dict() == config
    assert (model.eval().encode(POSITIVES) == before).all()


@pytest.mark.parametrize(
    ("template", "context", "target"),
    [
        ("[CLS] $A [SEP]", [2, 12], [10, 3]),
        ("[CLS] $A", [2, 12], [10]),
        ("$A [SEP]", [12], [10, 3]),
        ("$A", [12], [10]),
        ("[CLS] [CLS] $A [SEP]", [2, 2, 12], [10, 3]),
    ],
)
def test_what_the_tokenizer_puts_between_query_and_passage_is_left_out(llama, template, context, target):
    llama.tokenizer.backend_tokenizer.post_processor = generation_cases.template(template)
    queries, passages = ([llama.tokenizer.convert_ids_to_tokens(token)] for token in (12, 10))
    read = []
    network = llama[0].model
    network.register_forward_pre_hook(lambda _, inputs, options: read.append(options["input_ids"]), with_kwargs=True)
    (row,) = scores(llama, queries, passages)
    assert read[0].tolist() == [[*context, *target]]
    assert len(row) == len(target)


def test_chunks_change_neither_value_nor_gradient(decoder, monkeypatch):
    results = []
    for tokens in (1024, 4):
        monkeypatch.setattr(generation, "_TOKENS_AT_ONCE", tokens)
        decoder.zero_grad()
        value = torch.cat(scores(decoder)).square().sum()
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in decoder.parameters())])
    assert len(torch.cat(scores(decoder))) > 8
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_logits_are_not_kept_for_the_gradient(decoder):
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = torch.cat(scores(decoder)).sum()
    assert kept
    tokens = sum(len(target) for _, target in joined(decoder))
    assert (tokens, 99) not in kept
    total.backward()
    assert decoder[0].model.norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("queries", [QUERIES, QUERIES[:1]], ids=["padded", "not padded"])
def test_a_network_that_makes_its_states_again_has_the_same_gradient(decoder, queries):
    results = []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            network = decoder[0].model
            new = getattr(network, "activation_checkpointing_enable", None)  # transformers 5
            (new or network.gradient_checkpointing_enable)({"use_reentrant": False})
        decoder.train().zero_grad()
        torch.cat(scores(decoder, queries, POSITIVES[: len(queries)])).sum().backward()
        results.append([p.grad.clone() for p in decoder.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences(llama):
    # GPT-2, whose norms stay in double precision.
    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    decoder = with_network(llama, GPT2Model(config)).double()

    def total():
        return sum((row * torch.arange(1.0, len(row) + 1)).sum() for row in scores(decoder))

    total().backward()
    weights = dict(decoder[0].model.named_parameters())
    for name, place in (("ln_f.weight", (3,)), ("h.0.attn.c_attn.weight", (5, 7)), ("wte.weight", (12, 4))):
        weight, start, values = weights[name], weights[name].detach().clone(), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] = start[place] + step
                values.append(total().item())
                weight.copy_(start)
        gradient = weight.grad[place].item()
        assert abs(gradient) > 1e-2
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient, rel=1e-6)


def test_a_model_in_half_precision_has_scores_in_single(llama):
    exact = torch.cat(scores(llama))
    llama.to(torch.bfloat16)
    check_generation(llama, None)
    half = torch.cat(scores(llama))
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.3
    assert (half <= 0).all()


def test_a_head_must_know_every_token(decoder):
    with pytest.raises(LossError, match=r"a logit for every token, got 11 logits and token \d+. Take the head"):
        scores(decoder, head=torch.nn.Linear(32, 11).double())


def test_a_text_without_tokens_is_refused(decoder):
    decoder.tokenizer.backend_tokenizer.post_processor = generation_cases.template("$A")
    empty = {name: torch.zeros(1, 2, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    (full,) = columns(decoder, ["a cat"])
    for queries, passages in ((empty, full), (full, empty)):
        with pytest.raises(LossError, match="must have a token, got one without. Filter out empty texts."):
            passage_log_probs(decoder[0], queries, passages, None)


def test_texts_longer_than_the_model_are_refused(decoder):
    decoder[0].model.config.max_position_embeddings = 10
    scores(decoder, ["the cat"], ["a cat sat on the mat"])  # 3 and 7
    with pytest.raises(LossError, match=r"at most 10 tokens, .* got 11. Set model.max_seq_length to 5 or less."):
        scores(decoder, ["the cat sat"], ["a cat sat on the mat"])


@torch.no_grad()
def test_an_elastic_model_generates_at_full_depth(llama):
    for a, b in zip(scores(llama), scores(st_plugins.elastic(llama)), strict=True):
        assert torch.equal(a, b)
