import copy

import numpy as np
import pytest
import torch

import exit_cases
import st_plugins
from st_plugins.errors import ExitError, InputError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exits import OverlapRisk, calibrate_exits
from st_plugins.exits.bounds import BOUNDS, betting, hoeffding_bentkus
from st_plugins.exits.calibration import THRESHOLDS, choose_threshold
from st_plugins.exits.risks import cosine_loss, losses_at_exits
from st_plugins.exits.traces import Trace, trace
from st_plugins.weight_digests import weights_digest

# Random weights: layers differ widely, so what is accepted has to be much.
LOOSE = {"alpha": 0.4, "delta": 0.1}


@pytest.fixture
def trained(model):
    return exit_cases.train(model)


@pytest.fixture
def texts():
    return exit_cases.texts(300)


def part(traced, rows):
    return Trace(traced.layers, traced.pooled[:, rows], traced.lengths[rows], traced.embeddings[:, rows])


def test_the_certificate_says_what_the_texts_show(trained, texts):
    policy = calibrate_exits(trained, texts, name="balanced", **LOOSE)
    proof = policy.certificate
    assert trained[0].exit_policies == {"balanced": policy}
    full = trained.encode(texts, convert_to_tensor=True)
    early = trained.encode(texts, exit="balanced", convert_to_tensor=True)
    with torch.no_grad():
        layers = trained(trained.preprocess(texts), exit="balanced")["exit_layer"]
    assert proof.mean_loss == pytest.approx(float(cosine_loss(early, full).mean()), abs=1e-6)
    assert proof.expected_layers == pytest.approx(float(layers.float().mean()))
    assert proof.exit_rates == pytest.approx([float((layers == k).float().mean()) for k in (1, 2, 3, 4)])
    assert sum(rate * k for rate, k in zip(proof.exit_rates, policy.layers, strict=True)) == proof.expected_layers
    assert proof.p_value == pytest.approx(hoeffding_bentkus(cosine_loss(early, full).numpy(), 0.4), rel=1e-3)
    assert proof.p_value <= 0.1
    assert proof.expected_layers < 4
    assert (proof.risk, proof.alpha, proof.delta, proof.n, proof.bound) == (
        *("cosine", 0.4, 0.1, 300),
        "hoeffding-bentkus",
    )
    assert proof.fingerprint == st_plugins.fingerprint(trained, layer=policy.layers[0])
    assert policy.weights == weights_digest(trained[0].model)


def test_the_next_threshold_would_fail(trained, texts):
    policy = calibrate_exits(trained, texts, name="balanced", **LOOSE)
    traced = trace(trained, texts)
    scores = traced.scores(Saturation())
    losses = losses_at_exits("cosine", cosine_loss, traced.embeddings)
    place = THRESHOLDS.index(policy.threshold)
    for index in (0, place // 2, place, place + 1):
        exits = traced.exits(scores, THRESHOLDS[index])
        p_value = hoeffding_bentkus(losses.gather(0, exits[None])[0].numpy(), 0.4)
        assert (p_value <= 0.1) == (index <= place)


def test_thresholds_go_from_never_to_always():
    assert THRESHOLDS[0] == 2.0
    assert THRESHOLDS[-1] == pytest.approx(-1.0)
    assert THRESHOLDS[-1] >= -1.0
    assert list(THRESHOLDS) == sorted(THRESHOLDS, reverse=True)


def test_the_same_texts_give_the_same_policy_in_any_order_or_number(trained, texts):
    policy = calibrate_exits(trained, texts, name="one", **LOOSE)
    again = calibrate_exits(trained, [*texts[::-1], *texts[:50]], name="one", **LOOSE)
    assert again.threshold == policy.threshold
    assert again.certificate.n == 300
    assert again.certificate.data == policy.certificate.data
    assert calibrate_exits(trained, texts[1:], name="one", **LOOSE).certificate.data != policy.certificate.data


@pytest.fixture(scope="module")
def everything(_tiny):
    """1500 texts at every exit."""
    return trace(exit_cases.train(st_plugins.elastic(copy.deepcopy(_tiny))), exit_cases.texts(1500), batch_size=256)


def broken_promises(everything, choose, splits, n=60, alpha=0.4):
    """How often a rule, given n of 1500 texts, ends with a risk above alpha on all of them."""
    scores = everything.scores(Saturation())
    losses = losses_at_exits("cosine", cosine_loss, everything.embeddings)
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(splits):
        rows = torch.from_numpy(rng.choice(1500, n, replace=False))
        threshold = choose(part(everything, rows), scores[:, rows], losses[:, rows], alpha)
        risk = losses.gather(0, everything.exits(scores, threshold)[None]).mean()
        broken += bool(risk > alpha)
    return broken / splits


@pytest.mark.parametrize(
    "bound", ["hoeffding-bentkus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hoeffding", "betting"))]
)
def test_the_promise_is_kept_on_texts_never_seen(everything, bound):
    def careful(traced, scores, losses, alpha):
        return choose_threshold(traced, scores, losses, alpha, 0.1, BOUNDS[bound])

    assert broken_promises(everything, careful, 60) <= 0.1


def test_a_rule_without_proof_breaks_it(everything):
    def naive(traced, scores, losses, alpha):
        return min(t for t in THRESHOLDS[::4] if losses.gather(0, traced.exits(scores, t)[None]).mean() <= alpha)

    assert broken_promises(everything, naive, 60) > 0.2


@pytest.mark.parametrize("bound", BOUNDS)
def test_too_few_texts_are_told_how_many_it_takes(trained, texts, bound):
    options = {"name": "x", "alpha": 0.3, "delta": 0.05, "bound": bound}
    with pytest.raises(ExitError, match=r"at least \d+ distinct texts .* got 3. Take more texts") as raised:
        calibrate_exits(trained, texts[:3] * 50, **options)
    needed = int(str(raised.value).split("at least ")[1].split()[0])
    with pytest.raises(ExitError, match=f"at least {needed} distinct"):
        calibrate_exits(trained, texts[: needed - 1], **options)
    policy = calibrate_exits(trained, texts[:needed], **options)
    assert policy.certificate.expected_layers == 4.0
    assert trained[0].exit_policies["x"] is policy


def test_more_is_proved_from_more_texts_and_for_less(trained, texts):
    def layers(**changes):
        options = {**LOOSE, "texts": texts, **changes}
        return calibrate_exits(trained, options.pop("texts"), name="x", **options).certificate.expected_layers

    assert layers() < layers(texts=texts[:8])
    assert layers(alpha=0.5) < layers() < layers(alpha=0.2)
    assert layers(delta=0.5) <= layers() <= layers(delta=0.001)
    assert layers(bound="hoeffding") >= layers()


def test_other_risks_and_criteria(trained, texts):
    corpus = trained.encode(exit_cases.texts(50, seed=9), convert_to_tensor=True)
    gate = Gate((1, 2, 3), ((0.0, 0.0, 0.0, -0.5, 1.0),) * 3)
    policy = calibrate_exits(trained, texts, name="near", risk=OverlapRisk(corpus, 5), criterion=gate, alpha=0.6)
    assert (policy.certificate.risk, policy.criterion) == ("overlap@5", gate)
    full, early = (trained.encode(texts, convert_to_tensor=True, **o) for o in ({}, {"exit": "near"}))
    assert policy.certificate.mean_loss == pytest.approx(float(OverlapRisk(corpus, 5)(early, full).mean()), abs=1e-5)
    assert 0 < policy.certificate.mean_loss < 0.6


def test_a_risk_that_is_too_large_in_full_is_told(trained, texts):
    def half(exits, full):
        return torch.full((len(exits),), 0.5)

    with pytest.raises(ExitError, match=r"at most 0.4 at full depth, but there half has a mean of 0.5000 over 300"):
        calibrate_exits(trained, texts, name="x", risk=half, **LOOSE)
    assert trained[0].exit_policies == {}


def test_it_is_calibrated_for_the_prompt(trained, texts):
    trained.prompts = {"query": "the red cat "}
    plain = calibrate_exits(trained, texts, name="plain", **LOOSE).certificate
    query = calibrate_exits(trained, texts, name="query", prompt_name="query", **LOOSE)
    early = trained.encode_query(texts, exit="query", convert_to_tensor=True)
    full = trained.encode_query(texts, convert_to_tensor=True)
    assert query.certificate.mean_loss == pytest.approx(float(cosine_loss(early, full).mean()), abs=1e-5)
    assert query.certificate.mean_loss != pytest.approx(plain.mean_loss, abs=1e-5)


def test_saved_with_the_model_and_void_after_training(trained, texts, tmp_path):
    policy = calibrate_exits(trained, texts, name="balanced", **LOOSE)
    trained.save_pretrained(tmp_path)
    again = st_plugins.load(tmp_path, device="cpu")
    assert again[0].exit_policies == {"balanced": policy}
    assert np.array_equal(again.encode(texts[:9], exit="balanced"), trained.encode(texts[:9], exit="balanced"))
    again.train()
    optimizer = torch.optim.AdamW(again.parameters(), lr=1e-4)
    again(again.preprocess(texts[:4]))["sentence_embedding"].sum().backward()
    optimizer.step()
    with pytest.raises(ExitError, match="the weights it was calibrated for"):
        again.encode(texts[0], exit="balanced")
    again.save_pretrained(tmp_path / "more")
    with pytest.raises(ExitError, match="the weights it was calibrated for"):
        st_plugins.load(tmp_path / "more", device="cpu").encode(texts[0], exit="balanced")


def test_bets_are_laid_in_an_order_that_says_nothing(trained, texts):
    full = trained.encode(texts, convert_to_tensor=True)
    loss = cosine_loss(trained.encode(texts, layer=2, convert_to_tensor=True), full)
    sorted_texts = [texts[index] for index in loss.argsort()]
    proof = calibrate_exits(trained, sorted_texts, name="x", bound="betting", **LOOSE).certificate
    early, full = (trained.encode(sorted_texts, convert_to_tensor=True, **o) for o in ({"exit": "x"}, {}))
    losses = cosine_loss(early, full).double().numpy()
    order = np.random.default_rng(0).permutation(300)
    assert proof.p_value == pytest.approx(betting(losses[order], 0.4), rel=1e-2)
    assert proof.p_value != pytest.approx(betting(losses, 0.4), rel=0.1)


def test_a_network_that_cannot_run_in_stages_is_refused(trained, texts):
    class Scaled(type(trained[0].model)):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            return (2 * output[0], *output[1:])

    trained[0].model.__class__ = Scaled
    with pytest.raises(UnsupportedModelError, match="Scaled cannot run in stages"):
        calibrate_exits(trained, texts, name="x", **LOOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha must be a number between 0 and 1, both excluded, got 0"),
        ({"alpha": 1.0}, "alpha must be .* got 1.0"),
        ({"delta": 0.0}, "delta must be .* got 0.0"),
        ({"delta": float("nan")}, "delta must be"),
        ({"alpha": "0.1"}, "alpha must be .* got '0.1'"),
        ({"bound": "luck"}, r"bound must be one of \['betting', 'hoeffding', 'hoeffding-bentkus'\], got 'luck'"),
        ({"name": ""}, "needs a name"),
        ({"risk": "dot"}, "risk must be"),
        ({"criterion": Gate((1,), ((0, 0, 0, 0, 0),))}, "gate was trained for exits"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(trained, options, message):
    with pytest.raises(ExitError, match=message):
        calibrate_exits(trained, [], **{"name": "x", **LOOSE, **options})


def test_models_and_texts_that_cannot_be_calibrated(trained, plain):
    with pytest.raises(InputError, match="at least one text, got none"):
        calibrate_exits(trained, [], name="x", **LOOSE)
    with pytest.raises(UnsupportedModelError, match="model for exits must be elastic"):
        calibrate_exits(plain, ["a"], name="x", **LOOSE)
    with pytest.raises(UntrainedSizeError, match="Exits need a model trained at layers below 4"):
        calibrate_exits(st_plugins.elastic(plain), ["a"], name="x", **LOOSE)
