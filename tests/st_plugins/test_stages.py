import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer

import families
from st_plugins.blocks import find_blocks, follow
from st_plugins.errors import ShapeError, SizeError, UnsupportedModelError
from st_plugins.stages import StagedRun, check_stages
from st_plugins.views import normed_layers, recording_view, view

FAMILIES = families.available()
LENGTHS = [7, 12, 3, 9, 12, 5]
# Who is left after layers 1, 2 and 3.
LEFT = {1: [0, 2, 3, 5], 2: [0, 2, 5], 3: [2, 5]}


def inputs(lengths, side):
    """Token ids (B, T) and their mask; ``mixed`` pads the even rows left and the odd rows right."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    ids = torch.randint(5, 90, (len(lengths), width), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        is_left = side == "left" or (side == "mixed" and row % 2 == 0)
        mask[row, width - length if is_left else 0 : width if is_left else length] = 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def close(found, expected, tolerance=1e-6):
    """Equal up to ``tolerance`` of the largest number, or of one."""
    scale = max(1.0, float(expected.abs().max()))
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance * scale


def row_of(batch, row):
    return {name: value[row : row + 1] for name, value in batch.items()}


def tokens(states, mask):
    return states[mask.bool()]


def leave(run, left):
    run.keep(torch.isin(run.rows, torch.tensor(left)))


def with_attention(model, implementation):
    other = type(model)._from_config(copy.deepcopy(model.config), attn_implementation=implementation)
    other.load_state_dict(model.state_dict())
    return other.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left", "mixed"])
def test_with_nobody_leaving_it_is_the_plain_forward_pass(name, side):
    model = families.build(name)
    batch = inputs(LENGTHS, side)
    run = StagedRun(model, batch)
    for layer in (1, 2, 3, 4):
        states, mask = run.to(layer)
        assert close(states, view(model, layer)(**batch)[0]), layer
        assert torch.equal(mask, batch["attention_mask"])
    assert close(states, model(**batch)[0])
    assert close(StagedRun(model, batch).to(4)[0], states)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left", "mixed"])
def test_a_row_computes_the_same_whoever_leaves(name, side):
    model = families.build(name)
    batch = inputs(LENGTHS, side)
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    for layer, left in LEFT.items():
        run.to(layer)
        leave(run, left)
        assert run.rows.tolist() == left
        states, mask = run.to(layer)
        for place, row in enumerate(left):
            alone = row_of(batch, row)
            expected = view(model, layer)(**alone)[0]
            assert close(tokens(states[place], mask[place]), tokens(expected, alone["attention_mask"])), (layer, row)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        alone = row_of(batch, row)
        found = tokens(states[place], mask[place])
        assert torch.equal(mask[place].sum(), alone["attention_mask"].sum())
        assert close(found, tokens(model(**alone)[0], alone["attention_mask"])), row
        assert close(found, tokens(full[row], alone["attention_mask"][0])), row


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_computes_what_it_does_without_padding(name):
    model = families.build(name)
    batch = inputs(LENGTHS, "right")
    run = StagedRun(model, batch)
    for layer, left in LEFT.items():
        run.to(layer)
        leave(run, left)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        ids = batch["input_ids"][row : row + 1, : LENGTHS[row]]
        assert close(tokens(states[place], mask[place]), model(input_ids=ids)[0][0]), row


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_any_batch_size(name, batch_size):
    # 4 is also the number of heads and of layers, 12 rows of 12 tokens would be square.
    model = families.build(name)
    batch = inputs(([12, 7, 5, 9] * 16)[:batch_size], "mixed")
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert close(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(2)
    run.keep(torch.arange(batch_size) % 2 == 0)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        assert close(tokens(states[place], mask[place]), tokens(full[row], batch["attention_mask"][row])), row


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_half_precision(name, side):
    model = families.build(name).to(torch.bfloat16)
    batch = inputs(LENGTHS, side)
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert torch.equal(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(1)
    leave(run, [2, 5])
    states, mask = run.to(4)
    assert states.dtype == torch.bfloat16
    found, expected = tokens(states, mask).float(), tokens(full[[2, 5]], batch["attention_mask"][[2, 5]]).float()
    # A unit in the last place of bfloat16 is 2 ** -8; four blocks round differently for other widths.
    assert float((found - expected).norm() / expected.norm()) < 2**-6


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_eager_attention(name):
    model = with_attention(families.build(name), "eager")
    batch = inputs(LENGTHS, "mixed")
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert close(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(2)
    leave(run, [2, 5])
    states, mask = run.to(4)
    assert close(tokens(states, mask), tokens(full[[2, 5]], batch["attention_mask"][[2, 5]]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["distilbert", "deberta-v2", "mpnet"])
def test_a_configuration_that_asks_for_attentions_changes_nothing(name):
    # DistilBERT of transformers 4 then returns them before the hidden states.
    model = with_attention(families.build(name), "eager")
    batch = inputs(LENGTHS, "right")
    expected = model(**batch)[0]
    model.config.output_attentions = True
    assert close(StagedRun(model, batch).to(4)[0], expected)
    assert model.config.output_attentions


@pytest.mark.parametrize("side", ["right", "left"])
def test_columns_without_a_token_are_dropped(side):
    run = StagedRun(families.build("bert"), inputs(LENGTHS, side))
    assert run.to(1)[0].shape == (6, 12, 32)
    leave(run, [0, 2, 5])
    assert run.to(1)[0].shape == (3, 7, 32)
    leave(run, [2, 5])
    states, mask = run.to(3)
    assert states.shape == (2, 5, 32)
    assert mask.sum(dim=1).tolist() == [3, 5]


def test_no_column_is_dropped_between_tokens():
    batch = inputs([6, 6], "right")
    batch["attention_mask"][0] = torch.tensor([0, 1, 0, 0, 1, 0])
    run = StagedRun(families.build("bert"), batch)
    leave(run, [0])
    assert run.to(2)[1].tolist() == [[1, 0, 0, 1]]


@torch.no_grad()
def test_rows_without_a_token_keep_their_columns():
    model = families.build("bert")
    batch = inputs([5, 0], "right")
    run = StagedRun(model, batch)
    leave(run, [1])
    states, mask = run.to(4)
    assert mask.tolist() == [[0] * 5]
    assert close(states, model(**row_of(batch, 1))[0])


@torch.no_grad()
def test_without_a_mask_every_token_counts():
    model = families.build("qwen3")
    ids = inputs([6, 6, 6], "right")["input_ids"]
    run = StagedRun(model, {"input_ids": ids})
    leave(run, [0, 2])
    states, mask = run.to(4)
    assert close(states, model(input_ids=ids[[0, 2]])[0])
    assert mask.tolist() == [[1] * 6] * 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "qwen3"])
@pytest.mark.parametrize("rows", [1, 6])
def test_positions_of_the_caller_go_with_the_rows(name, rows):
    model = families.build(name)
    batch = inputs(LENGTHS, "left")
    # Every second position: no model would choose them itself, and distances are not those of columns.
    batch["position_ids"] = 2 * torch.arange(12).repeat(rows, 1) + torch.arange(rows)[:, None]
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    run.to(2)
    leave(run, [2, 5])
    states, mask = run.to(4)
    assert states.shape[1] == 5
    assert close(tokens(states, mask), tokens(full[[2, 5]], batch["attention_mask"][[2, 5]]))


@torch.no_grad()
def test_positions_stay_the_same_when_columns_on_the_left_are_dropped():
    # In bfloat16 a rotation by other angles of the same difference would show.
    model = families.build("llama").to(torch.bfloat16)
    batch = inputs([60, 40], "left")
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    leave(run, [1])
    seen = []
    hook = model.rotary_emb.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    states = run.to(4)[0]
    hook.remove()
    assert torch.equal(seen[0], model.rotary_emb(states, torch.arange(20, 60)[None])[0])
    assert not torch.equal(seen[0], model.rotary_emb(states, torch.arange(40)[None])[0])
    assert float((states[0] - full[1, 20:]).float().norm() / full[1, 20:].float().norm()) < 2**-6


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "scaling"),
    [
        (
            "phi3",
            {"original_max_position_embeddings": 8},
            {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [7.0] * 4},
        ),
        ("llama", {"max_position_embeddings": 8}, {"rope_type": "dynamic", "factor": 4.0}),
        # One kind per type of layer in transformers 5.
        (
            "gemma3_text",
            {"max_position_embeddings": 8, "layer_types": ["full_attention"] * 4},
            {"rope_type": "dynamic", "factor": 4.0},
        ),
    ],
)
def test_rotary_tables_that_depend_on_the_batch_are_left_alone(name, options, scaling):
    config = AutoConfig.for_model(name, **{**families.CONFIGS[name], **options}, rope_scaling=scaling)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    batch = inputs([12, 5], "right")
    full = model(**batch)[0]
    short = model(**{name: value[1:, :5] for name, value in batch.items()})[0]
    assert not close(full[1, :5], short[0], 1e-4)
    run = StagedRun(model, batch)
    run.to(1)
    leave(run, [1])
    states, mask = run.to(4)
    assert states.shape == (1, 12, 32)
    assert close(tokens(states, mask), full[1, :5])


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


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_its_own_check(name):
    model = families.build(name).train()
    model.get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    check_stages(model, torch.tensor([[5, 6, 7]]))
    check_stages(model.to(torch.bfloat16), torch.tensor([[5, 6, 7]]))
    assert [module.training for module in model.modules()] == modes


def bert_with(encoder=BertEncoder, model=BertModel):
    bert = model(BertConfig(**families.CONFIGS["bert"])).eval()
    bert.encoder.__class__ = encoder
    return bert


def test_more_than_blocks_between_blocks_is_refused():
    class Scaled(BertEncoder):
        def forward(self, hidden_states, *args, **kwargs):
            for block in self.layer:
                output = block(hidden_states)
                hidden_states = 2 * (output[0] if isinstance(output, tuple) else output)
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

    with pytest.raises(UnsupportedModelError, match="BertModel cannot run in stages: it does more than call 4 blocks"):
        StagedRun(bert_with(Scaled), inputs([3], "right"))


def test_deberta_with_a_convolution_after_its_first_block_is_refused():
    config = AutoConfig.for_model("deberta-v2", **families.CONFIGS["deberta-v2"], conv_kernel_size=3, conv_act="gelu")
    model = AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match="DebertaV2Model cannot run in stages: it does more than call 4"):
        StagedRun(model, inputs([3], "right"))


def test_blocks_that_are_called_twice_are_refused():
    class Twice(BertEncoder):
        def forward(self, hidden_states, *args, **kwargs):
            for block in [*self.layer, *self.layer]:
                output = block(hidden_states)
                hidden_states = output[0] if isinstance(output, tuple) else output
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

    with pytest.raises(UnsupportedModelError, match="more than call 4 blocks, each on the output of the last"):
        StagedRun(bert_with(Twice), inputs([3], "right"))


class Chained(BertLayer):
    """Adds to what the block before it handed on, as blocks with residual attention do."""

    def forward(self, hidden_states, handed_on=0.0):
        output = super().forward(hidden_states)
        output = output[0] if isinstance(output, tuple) else output
        return output + handed_on, output * 0.5


class ChainedEncoder(BertEncoder):
    def forward(self, hidden_states, *args, **kwargs):
        handed_on = 0.0
        for block in self.layer:
            hidden_states, handed_on = block(hidden_states, self.form(handed_on))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

    def form(self, handed_on):
        return handed_on


def chained(encoder):
    model = bert_with(encoder)
    for block in model.encoder.layer:
        block.__class__ = Chained
    return model


def test_blocks_that_compute_more_for_one_another_are_refused():
    run = StagedRun(chained(ChainedEncoder), inputs([3], "right"))
    with pytest.raises(UnsupportedModelError, match="each block computes something else for the next one, too"):
        run.to(2)


def test_what_the_model_makes_of_it_on_the_way_cannot_be_missed():
    class Hidden(ChainedEncoder):
        def form(self, handed_on):
            return handed_on * 1.0

    with pytest.raises(TypeError, match="NoneType"):
        StagedRun(chained(Hidden), inputs([3], "right"))


def test_something_unknown_behind_the_blocks_is_refused():
    class Doubled(BertModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output["last_hidden_state"] = output["last_hidden_state"] * 2
            return output

    with pytest.raises(UnsupportedModelError, match="Doubled cannot run in stages: that would change its output .rel"):
        check_stages(bert_with(model=Doubled), torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("column", [0, -1])
def test_attention_that_depends_on_the_width_of_the_batch_is_refused(column):
    class Favoured(BertEncoder):
        def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
            batch_size, width = hidden_states.shape[:2]
            scores = torch.zeros(batch_size, 1, width, width)
            scores[..., column] = 4.0
            if attention_mask is not None:
                is_seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
                scores = scores.masked_fill(~is_seen, torch.finfo(scores.dtype).min)
            return super().forward(hidden_states, scores, *args, **kwargs)

    check_stages(bert_with(), torch.tensor([[5, 6, 7]]))
    with pytest.raises(UnsupportedModelError, match="BertModel cannot run in stages: that would change its output"):
        check_stages(bert_with(Favoured), torch.tensor([[5, 6, 7]]))


def test_flattened_inputs_are_refused():
    batch = {**inputs([3], "right"), "cu_seq_lens_q": torch.tensor([0, 3])}
    with pytest.raises(UnsupportedModelError, match="padded inputs, got flattened .* model.0..unpad_inputs = False"):
        StagedRun(families.build("bert"), batch)


def test_models_that_flatten_inputs_themselves_are_refused():
    class Flattened(BertEncoder):
        def forward(self, hidden_states, *args, **kwargs):
            return super().forward(hidden_states.flatten(0, 1)[None])

    with pytest.raises(
        UnsupportedModelError, match="BertModel cannot run in stages: its hidden states are of shape .1, 14"
    ):
        StagedRun(bert_with(Flattened), inputs([7, 7], "right"))


@pytest.mark.parametrize("layer", [0, 5, True, "2"])
def test_a_missing_layer_is_refused(layer):
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4 .* got"):
        StagedRun(families.build("bert"), inputs([3], "right")).to(layer)


def test_a_layer_behind_is_refused():
    run = StagedRun(families.build("bert"), inputs([3], "right"))
    run.to(3)
    with pytest.raises(SizeError, match="layer must be at least 3, where the rows are, got 2. Make another run."):
        run.to(2)


@pytest.mark.parametrize(
    ("mask", "came"),
    [
        (torch.tensor([True]), "torch.bool of shape .1,."),
        (torch.tensor([0, 1]), "torch.int64 of shape .2,."),
        (torch.ones(2, 1, dtype=torch.bool), "torch.bool of shape .2, 1."),
    ],
)
def test_anything_but_one_boolean_per_row_is_refused(mask, came):
    run = StagedRun(families.build("bert"), inputs([3, 3], "right"))
    with pytest.raises(ShapeError, match=rf"mask must be torch.bool of shape \(2,\), .* got {came}"):
        run.keep(mask)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "input_ids must be a tensor .B, T. of at least one row, got NoneType."),
        ({"input_ids": torch.ones(3).long()}, r"input_ids must be a tensor .* got \(3,\)."),
        ({"input_ids": torch.ones(0, 3).long()}, r"input_ids must be a tensor .* got \(0, 3\)."),
        (
            {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 4)},
            r"attention_mask must have the shape of input_ids, \(2, 3\), got \(2, 4\).",
        ),
        (
            {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(1, 3)},
            r"attention_mask must have the shape of input_ids, \(2, 3\), got \(1, 3\).",
        ),
        (
            {"input_ids": torch.ones(2, 3).long(), "position_ids": torch.ones(3, 3)},
            r"position_ids must have the shape of input_ids, \(2, 3\), got \(3, 3\).",
        ),
    ],
)
def test_inputs_of_another_shape_are_refused(batch, message):
    with pytest.raises(ShapeError, match=message):
        StagedRun(families.build("bert"), batch)


@torch.no_grad()
def test_layers_are_those_losses_train():
    model = families.build("qwen3")
    batch = inputs(LENGTHS, "right")
    recording, states = recording_view(model)
    recording(**batch)
    run = StagedRun(model, batch)
    for layer, expected in enumerate(normed_layers(model, states), 1):
        assert torch.equal(run.to(layer)[0], expected)


@torch.no_grad()
def test_a_real_model(minilm):
    model = minilm[0].model
    features = minilm.tokenizer(["A cat.", "Some dogs are running over the field."], padding=True, return_tensors="pt")
    full = model(**features)[0]
    run = StagedRun(model, {**features, "return_dict": True})
    assert close(run.to(3)[0], view(model, 3)(**features)[0])
    run.keep(torch.tensor([True, False]))
    states, mask = run.to(6)
    assert states.shape == (1, 5, 384)
    assert close(tokens(states, mask), tokens(full[:1], features["attention_mask"][:1]))
