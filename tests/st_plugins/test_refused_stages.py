import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer

import families
from st_plugins.errors import ShapeError, SizeError, UnsupportedModelError
from st_plugins.stages import StagedRun, check_stages
from stage_cases import inputs


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
