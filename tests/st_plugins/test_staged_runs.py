import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import DynamicCache
from transformers.models.bert.modeling_bert import BertEncoder

import families
from st_plugins.blocks import find_blocks, follow
from st_plugins.stages import StagedRun
from st_plugins.views import view
from stage_cases import LENGTHS, close, inputs, leave, tokens

FAMILIES = families.available()


@torch.no_grad()
def test_nobody_left_runs_no_block():
    model = families.build("bert")
    run = StagedRun(model, inputs(LENGTHS, "right"))
    leave(run, [])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    states, mask = run.to(4)
    assert states.shape == (0, 12, 32)
    assert mask.shape == (0, 12)
    assert (run.rows.tolist(), run.layer) == ([], 4)


@torch.no_grad()
def test_blocks_behind_the_layer_are_not_run():
    model = families.build("gemma3_text")
    batch = inputs(LENGTHS, "right")
    expected = view(model, 2)(**batch)[0]
    for parameter in follow(model, find_blocks(model).path)[2:].parameters():
        parameter.fill_(float("nan"))
    assert torch.equal(StagedRun(model, batch).to(2)[0], expected)


@pytest.mark.parametrize("name", ["bert", "t5", "qwen3"])
def test_blocks_run_as_often_as_they_must(name, monkeypatch):
    model = families.build(name)
    counts = []
    for number, block in enumerate(follow(model, find_blocks(model).path)):
        block.register_forward_hook(lambda *_, number=number: counts.append(number))
    run = StagedRun(model, inputs(LENGTHS, "right"))
    run.to(2)
    run.keep(torch.tensor([True] * 6))
    run.to(3)
    assert counts == [0, 1, 2]
    leave(run, [0, 2])
    leave(run, [2])
    run.to(4)
    # T5 computes its relative biases in block 1, anew for other rows.
    assert counts == ([0, 1, 2, 0, 3] if name == "t5" else [0, 1, 2, 3])


def test_nothing_is_cached(monkeypatch):
    model = families.build("llama")
    assert model.config.use_cache
    monkeypatch.setattr(DynamicCache, "update", lambda *args, **kwargs: pytest.fail("a cache was filled"))
    StagedRun(model, inputs([3], "right")).to(4)
    assert model.config.use_cache


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_stays_as_it_was(name):
    model = families.build(name)
    batch = inputs(LENGTHS, "right")
    before = model(**batch)[0]
    config = model.config.to_dict()
    modules = dict(model.named_modules())
    run = StagedRun(model, batch)
    leave(run, [1])
    run.to(4)
    assert model.config.to_dict() == config
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(**batch)[0], before)
    assert list(batch) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("name", ["bert", "t5", "albert"])
def test_gradients_are_those_of_the_plain_forward_pass(name):
    gradients = []
    for is_staged in (False, True):
        model = families.build(name)
        batch = inputs(LENGTHS, "right")
        if is_staged:
            run = StagedRun(model, batch)
            early, mask = run.to(2)
            leave(run, [2, 5])
            late, left = run.to(4)
            total = (tokens(early, mask) ** 3).sum() + (tokens(late, left) ** 3).sum()
        else:
            late = model(**batch)[0]
            early = view(model, 2)(**batch)[0]
            mask = batch["attention_mask"]
            total = (tokens(early, mask) ** 3).sum() + (tokens(late[[2, 5]], mask[[2, 5]]) ** 3).sum()
        total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, staged = gradients
    assert plain.keys() == staged.keys()
    assert all(close(staged[name], plain[name], 1e-4) for name in plain)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in plain.values())


def test_gradient_checkpointing_changes_no_gradient():
    model = families.build("bert").train()
    gradients = []
    for is_checkpointing in (False, True):
        if is_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(3)
        StagedRun(model, inputs([4, 4], "right")).to(4)[0].square().sum().backward()
        gradients.append(model.encoder.layer[0].output.dense.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4)
    assert gradients[0].abs().sum() > 0


def test_inference_mode():
    model = families.build("t5")
    batch = inputs(LENGTHS, "left")
    with torch.inference_mode():
        full = model(**batch)[0]
        run = StagedRun(model, batch)
        leave(run, [0, 2])
        states, mask = run.to(4)
        assert close(tokens(states, mask), tokens(full[[0, 2]], batch["attention_mask"][[0, 2]]))
        assert states.is_inference()


def test_many_runs_at_once():
    model = families.build("t5")

    def work(row):
        with torch.no_grad():
            run = StagedRun(model, inputs(LENGTHS, "right"))
            run.to(1 + row % 3)
            leave(run, [row % 6])
            return run.to(4)[0]

    expected = [work(row) for row in range(6)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(60)))
    assert all(torch.equal(result, expected[number % 6]) for number, result in enumerate(results))


@torch.no_grad()
def test_a_finished_run_holds_no_memory():
    gc.collect()
    gc.disable()
    try:
        run = StagedRun(families.build("bert"), inputs(LENGTHS, "right"))
        states = weakref.ref(run.to(1)[0])
        run.to(3)
        assert states() is not None
        del run
        assert states() is None
    finally:
        gc.enable()


def test_recorders_answer_for_their_blocks():
    class Curious(BertEncoder):
        def forward(self, hidden_states, *args, **kwargs):
            assert self.layer[1].intermediate.dense.out_features == 48
            return super().forward(hidden_states, self.layer[0].no_such_name, **kwargs)

    model = families.build("bert")
    model.encoder.__class__ = Curious
    with pytest.raises(AttributeError, match="no_such_name"):
        StagedRun(model, inputs([3], "right"))
