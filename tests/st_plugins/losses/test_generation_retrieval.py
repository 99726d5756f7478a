import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import uses_gradient_cache
from sentence_transformers.sentence_transformer import losses as host
from transformers import TrainerCallback

import reference
from families import but_slow
from generation_cases import NEGATIVES, OTHERS, POSITIVES, QUERIES, columns, scores
from st_plugins.bidirectional_attention import bidirectional
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses.generation import passage_log_probs
from st_plugins.losses.generation_retrieval import GenerationRetrievalLoss, preference_loss, ranking_divergence
from trainers import quiet_trainer


@pytest.mark.parametrize("kind", ["causal", "un-masked"])
@pytest.mark.parametrize(
    ("negatives", "beta", "temperature"), [([NEGATIVES], 0.1, 0.05), ([NEGATIVES, OTHERS], 0.5, 0.3)]
)
@torch.no_grad()
def test_the_parts_are_those_of_the_formula(llama, kind, negatives, beta, temperature):
    model = SentenceTransformer(modules=[llama[0], llama[1]], device="cpu").double()  # vectors of any length
    model = model if kind == "causal" else bidirectional(model)
    loss = GenerationRetrievalLoss(model, beta=beta, temperature=temperature)
    passages = [POSITIVES, *negatives]
    parts = loss(columns(model, QUERIES, *passages))
    vectors = [model.encode(texts).tolist() for texts in passages]
    log_probs = [[row.tolist() for row in scores(model, passages=texts)] for texts in passages]
    anchors = model.encode(QUERIES).tolist()
    expected = reference.generation_retrieval_loss(anchors, vectors, log_probs, beta, temperature)
    assert list(parts) == ["contrastive", "preference", "kl"]
    assert [part.item() for part in parts.values()] == pytest.approx(expected, rel=1e-6)
    assert all(part.ndim == 0 for part in parts.values())


@torch.no_grad()
def test_the_weights_multiply_their_parts(llama):
    features = columns(llama)
    whole = GenerationRetrievalLoss(llama)(features)
    weighted = GenerationRetrievalLoss(llama, cl_weight=2.0, preference_weight=0.0, kl_weight=0.5)(features)
    for name, factor in (("contrastive", 2.0), ("preference", 0.0), ("kl", 0.5)):
        assert weighted[name].item() == pytest.approx(factor * whole[name].item())


def test_a_preference_worked_by_hand():
    # The positive is e^2 and e^-1 times as likely as its negatives; beta 0.5.
    value = preference_loss(torch.tensor([[-4.0, -6.0, -3.0]]), beta=0.5)
    expected = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(0.5))) / 2
    assert value.item() == pytest.approx(expected) == pytest.approx(0.643668, abs=1e-5)


def test_a_divergence_worked_by_hand_has_the_direction_of_the_paper():
    # P_rt = (3/4, 1/4) and P_gen = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2.
    cosines = torch.tensor([[0.1 * math.log(3), 0.0]])
    value = ranking_divergence(cosines, torch.tensor([[-2.0, -2.0]]), temperature=0.1).item()
    assert value == pytest.approx(0.130812, abs=1e-5)
    other = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # the one of the authors' code
    assert other == pytest.approx(0.143841, abs=1e-5)


def test_the_divergence_is_not_negative_and_zero_where_both_rank_alike():
    for _ in range(50):
        cosines, generation = torch.randn(4, 5, dtype=torch.double), torch.randn(4, 5, dtype=torch.double)
        assert ranking_divergence(cosines, generation, 0.3) > 0
        same = 0.3 * generation + torch.randn(4, 1)  # a distribution does not see a constant
        assert ranking_divergence(same, generation, 0.3).item() == pytest.approx(0, abs=1e-12)


def test_the_divergence_moves_retrieval_to_generation_and_not_back():
    cosines, generation = (torch.randn(3, 4, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda scores: ranking_divergence(scores, generation.detach(), 0.2), [cosines])
    assert torch.autograd.gradcheck(lambda scores: preference_loss(scores, 0.1), [generation])
    ranking_divergence(cosines, generation, 0.2).backward()
    assert cosines.grad.abs().sum() > 0
    assert generation.grad is None


def test_the_preference_rises_with_the_positive_alone():
    log_probs = torch.tensor([[-20.0, -22.0, -12.0]], requires_grad=True)
    preference_loss(log_probs, 0.1).backward()
    assert [gradient < 0 for gradient in log_probs.grad[0].tolist()] == [True, False, False]
    assert log_probs.grad.sum().item() == pytest.approx(0, abs=1e-7)


def test_each_part_trains_what_the_docstring_says(llama):
    embeddings = []

    def keep(module, inputs, output):
        output["sentence_embedding"].retain_grad()
        embeddings.append(output["sentence_embedding"])

    llama[-1].register_forward_hook(keep)
    for name in ("contrastive", "preference", "kl"):
        embeddings.clear()
        llama.zero_grad()
        GenerationRetrievalLoss(llama)(columns(llama))[name].backward()
        embeds = [column.grad is not None and bool(column.grad.abs().sum() > 0) for column in embeddings]
        assert embeds == [name != "preference"] * 4
        assert all(parameter.grad.abs().sum() > 0 for parameter in llama.parameters())


def test_the_columns_are_left_as_they_were_and_the_network_reads_each_once(llama):
    rows = []
    llama[0].model.norm.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    features = columns(llama)
    before = [dict(column) for column in features]
    loss = GenerationRetrievalLoss(llama)
    rows.clear()
    loss(features)
    assert rows == [3] * 4 + [3] * 3  # four columns embedded, three read after their queries
    for column, old in zip(features, before, strict=True):
        assert column.keys() == old.keys()
        assert all(column[name] is value for name, value in old.items())


def test_a_prompt_of_passages_is_generated_with_them(llama):
    query, passage = llama.preprocess(["the cat"]), llama.preprocess(["on the mat"], prompt="a red ")
    (row,) = passage_log_probs(llama[0], query, passage, None)
    assert len(row) == len("a red on the mat".split()) + 1


def test_the_scores_and_so_the_loss_do_not_know_the_padding(llama):
    model = llama.double()
    loss = GenerationRetrievalLoss(model)
    features = columns(model)
    wider = []
    for column in features:
        padded = {name: torch.nn.functional.pad(column[name], (2, 3)) for name in ("input_ids", "attention_mask")}
        wider.append({**column, **padded})
    expected = {name: part.item() for name, part in loss(features).items()}
    assert {name: part.item() for name, part in loss(wider).items()} == pytest.approx(expected, rel=1e-5)


class _Losses(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append(dict(logs))


@pytest.mark.parametrize("kind", but_slow(["causal", "un-masked"], "un-masked"))
def test_the_ordinary_trainer_lowers_every_part_and_writes_the_card(llama, kind, tmp_path):
    model = llama if kind == "causal" else bidirectional(llama)
    loss = GenerationRetrievalLoss(model)
    with torch.no_grad():
        before = {name: part.item() for name, part in loss(columns(model, QUERIES, POSITIVES, NEGATIVES)).items()}
    rows = {"anchor": QUERIES * 8, "positive": POSITIVES * 8, "negative": NEGATIVES * 8}
    seen = _Losses()
    options = {"max_steps": 16, "learning_rate": 2e-2, "logging_steps": 5, "batch_sampler": "no_duplicates"}
    options |= {"per_device_train_batch_size": 3, "callbacks": [seen]}
    quiet_trainer(model, loss, tmp_path / "run", rows, **options).train()
    model.eval()
    with torch.no_grad():
        after = {name: part.item() for name, part in loss(columns(model, QUERIES, POSITIVES, NEGATIVES)).items()}
    assert {name: after[name] < 0.5 * value for name, value in before.items()} == dict.fromkeys(before, True)
    assert {"contrastive", "preference", "kl"} <= seen.logs[0].keys()
    model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "GenerationRetrievalLoss" in card
    assert '"preference_weight": 1.0' in card
    assert "2408.03402" in card


def test_what_the_card_says(llama):
    loss = GenerationRetrievalLoss(llama, host.CoSENTLoss(llama), beta=0.2, temperature=0.1)
    assert loss.get_config_dict() == {
        "loss": "CoSENTLoss",
        "head": "tied",
        "cl_weight": 1.0,
        "preference_weight": 1.0,
        "kl_weight": 1.0,
        "beta": 0.2,
        "temperature": 0.1,
    }
    head = torch.nn.Linear(32, 99).requires_grad_(False)
    described = GenerationRetrievalLoss(llama, head=head).get_config_dict()
    assert (described["loss"], described["head"]) == ("MultipleNegativesRankingLoss", "Linear")
    assert "2408.03402" in loss.citation


@torch.no_grad()
def test_a_head_changes_generation_alone_and_gets_no_gradient(llama):
    head = torch.nn.Linear(32, 99).requires_grad_(False)
    features = columns(llama)
    tied, untied = GenerationRetrievalLoss(llama)(features), GenerationRetrievalLoss(llama, head=head)(features)
    assert tied["contrastive"] == untied["contrastive"]
    assert tied["preference"] != untied["preference"]
    assert tied["kl"] != untied["kl"]
    with torch.enable_grad():
        torch.stack(list(GenerationRetrievalLoss(llama, head=head)(features).values())).sum().backward()
    assert head.weight.grad is None


def test_the_base_loss_is_the_one_that_is_passed(llama):
    features = columns(llama, QUERIES, POSITIVES, NEGATIVES)
    base = host.TripletLoss(llama)
    expected = base([dict(column) for column in features], None).item()
    assert GenerationRetrievalLoss(llama, base)(features)["contrastive"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cl_weight": -1}, "cl_weight must be a number >= 0, got -1"),
        ({"preference_weight": math.inf}, "preference_weight must be a number >= 0, got inf"),
        ({"kl_weight": math.nan}, "kl_weight must be a number >= 0, got nan"),
        ({"beta": 0}, "beta must be a number > 0, got 0"),
        ({"beta": math.inf}, "beta must be a number > 0, got inf"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"head": torch.nn.Linear(32, 99)}, "The head must be frozen"),
    ],
)
def test_options_out_of_range_are_refused(llama, options, message):
    with pytest.raises(LossError, match=message):
        GenerationRetrievalLoss(llama, **options)


def test_base_losses_that_cannot_be_given_embeddings_are_refused(llama):
    cached = host.CachedMultipleNegativesRankingLoss(llama)
    with pytest.raises(LossError, match="must not cache gradients, got CachedMultiple.* Pass its plain form."):
        GenerationRetrievalLoss(llama, cached)
    with pytest.raises(LossError, match="must have compute_loss_from_embeddings, Identity has not"):
        GenerationRetrievalLoss(llama, torch.nn.Identity())


def test_it_caches_no_gradients_and_says_so(llama):
    loss = GenerationRetrievalLoss(llama)
    assert loss.uses_gradient_cache is uses_gradient_cache(loss) is False
    with pytest.raises(TypeError, match="mini_batch_size"):
        GenerationRetrievalLoss(llama, mini_batch_size=2)


def test_an_encoder_is_refused(plain):
    with pytest.raises(UnsupportedModelError, match="the tokens of BertModel see later ones"):
        GenerationRetrievalLoss(plain)


def test_batches_of_another_shape_are_refused(llama):
    loss = GenerationRetrievalLoss(llama)
    features = columns(llama)
    with pytest.raises(LossError, match="at least one negative, got 2 text columns. Add negatives"):
        loss(features[:2])
    flat = {"input_ids": torch.ones(1, 5, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 5])}
    with pytest.raises(LossError, match=r"padded token ids .* got a column of cu_seq_lens_q, input_ids. Load"):
        loss([*features[:2], flat])
    with pytest.raises(LossError, match=r"padded token ids .* got a column of attention_mask, input_ids. Load"):
        loss([*features[:2], {name: torch.ones(5, dtype=torch.long) for name in ("input_ids", "attention_mask")}])
    shorter = {**features[2], "attention_mask": features[2]["attention_mask"][:, 1:]}
    with pytest.raises(LossError, match="padded token ids with their attention mask, both"):
        loss([*features[:2], shorter])


def test_the_first_batch_and_every_value_are_checked(llama):
    with pytest.raises(LossError, match="TripletLoss must be able to use the columns .* got 4 text columns"):
        GenerationRetrievalLoss(llama, host.TripletLoss(llama))(columns(llama))
    loss = GenerationRetrievalLoss(llama)
    loss(columns(llama))
    head = torch.nn.Linear(32, 99).requires_grad_(False)
    head.bias.fill_(math.nan)
    with pytest.raises(LossError, match="The loss must be numbers, got NaN"):
        GenerationRetrievalLoss(llama, head=head)(columns(llama))
    with torch.no_grad():
        llama[0].model.norm.weight.fill_(math.nan)
    with pytest.raises(LossError, match="The embeddings must be numbers, got NaN"):
        loss(columns(llama))
