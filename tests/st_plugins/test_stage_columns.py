import pytest
import torch
from transformers import AutoConfig, AutoModel

import families
from st_plugins.stages import StagedRun
from stage_cases import LENGTHS, close, inputs, leave, row_of, tokens


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
