import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import AlbertConfig, AlbertModel

import families
import masking_cases
import reference
import st_plugins
from masking_cases import SENTENCES, batch
from st_plugins.errors import LossError, SizeError, UnsupportedModelError
from st_plugins.losses import MaskedAutoencoderLoss
from st_plugins.losses.layers import starbucks_menu

SIZES = [(1, 4), (2, 8), (3, 32)]


def transform(loss):
    head = loss.head
    return [p.tolist() for p in (head.transform.weight, head.transform.bias, head.norm.weight, head.norm.bias)]


def randomised(loss):
    """A head in which no part is at a value that would hide it."""
    for parameter in loss.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return loss


def decoded_by_hand(bert, block, ids, start):
    """One text without its padding, through BERT's own modules."""
    states = bert.embeddings(ids[None])
    states = torch.cat([torch.tensor(start, dtype=states.dtype)[None, None], states[:, 1:]], dim=1)
    output = block(states)
    return (output[0] if isinstance(output, tuple) else output)[0].tolist()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@torch.no_grad()
def test_the_value_is_that_of_the_formula(masked_models, pooling):
    model = st_plugins.elastic(copy.deepcopy(masked_models[pooling])).double()
    loss = randomised(MaskedAutoencoderLoss(model, sizes=SIZES))
    bert, features = model[0].model, batch(model)
    lengths = features["attention_mask"].sum(dim=1).tolist()
    vocabulary, offsets = bert.embeddings.word_embeddings.weight.tolist(), loss.head.bias.tolist()
    # Every text alone, so that nothing depends on how padding is treated.
    hidden, decoded, expected = [], [], 0.0
    for row, length in enumerate(lengths):
        hidden.append(bert(features["input_ids"][row : row + 1, :length], output_hidden_states=True).hidden_states)
    for layer, dim in [*SIZES, (4, 32)]:
        states = [row[layer][0].tolist() for row in hidden]
        labels = [features["encoder_labels"][row, :length].tolist() for row, length in enumerate(lengths)]
        mlm = reference.masked_token_loss(states, labels, dim, transform(loss), vocabulary, offsets)
        decoded = []
        for row, tokens in enumerate(states):
            pooled = tokens[0] if pooling == "cls" else [sum(x) / len(tokens) for x in zip(*tokens, strict=True)]
            embedding = reference.truncate(pooled, 32)
            start = reference.masked_token_transform(embedding[:dim], *transform(loss))
            ids = features["decoder_ids"][row, : len(tokens)]
            decoded.append(decoded_by_hand(bert, bert.encoder.layer[0], ids, start))
        labels = [features["decoder_labels"][row, :length].tolist() for row, length in enumerate(lengths)]
        mae = reference.masked_token_loss(decoded, labels, 32, transform(loss), vocabulary, offsets)
        expected += (mlm + mae) / 2 / 4
    assert loss([features]).item() == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_a_bag_of_words_is_asked_of_the_ordinary_tokens_of_the_full_depth(masked_model):
    masked_model.double()
    plain_loss = randomised(MaskedAutoencoderLoss(masked_model, sizes=SIZES))
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES, bow_weight=0.1)
    loss.head.load_state_dict(plain_loss.head.state_dict())
    loss.decoder.load_state_dict(plain_loss.decoder.state_dict())
    features = batch(masked_model)
    bert, vocabulary = masked_model[0].model, masked_model[0].model.get_input_embeddings().weight
    ids = masked_model.preprocess(SENTENCES)["input_ids"]
    expected = 0.0
    for row, length in enumerate(features["attention_mask"].sum(dim=1).tolist()):
        states = bert(features["input_ids"][row : row + 1, :length]).last_hidden_state[0, 1:-1]  # no [CLS], no [SEP]
        logits = loss.head(states) @ vocabulary.T + loss.head.bias
        expected += reference.bag_of_words(logits.tolist(), ids[row, 1 : length - 1].tolist()) / len(SENTENCES)
    assert loss([features]).item() - plain_loss([features]).item() == pytest.approx(0.1 * expected, rel=1e-9)
    assert loss.get_config_dict()["bow_weight"] == 0.1


def test_the_first_coordinates_of_every_text_embedding_are_asked_for_the_text(masked_model):
    embeddings = []

    def keep(module, inputs, output):
        output["sentence_embedding"].retain_grad()
        embeddings.append(output["sentence_embedding"])

    masked_model[-1].register_forward_hook(keep)
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES)
    loss([batch(masked_model)]).backward()
    gradient = embeddings[0].grad.unflatten(0, (4, len(SENTENCES)))  # layer by layer
    for index, (_, dim) in enumerate([*SIZES, (4, 32)]):
        assert (gradient[index][:, :dim].abs().sum(dim=1) > 0).all()
        assert gradient[index][:, dim:].abs().sum() == 0


def test_padding_changes_nothing(masked_model):
    masked_model.double()
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES)
    features = batch(masked_model)
    fillers = {"encoder_labels": -100, "decoder_labels": -100}
    wider = {
        name: torch.nn.functional.pad(value, (0, 3), value=fillers.get(name, 0))
        if isinstance(value, torch.Tensor)
        else value
        for name, value in features.items()
    }
    assert loss([wider]).item() == pytest.approx(loss([features]).item(), rel=1e-12)


def test_gradients_reach_encoder_head_and_decoder(masked_model):
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES)
    loss([batch(masked_model)]).backward()
    without = {n for n, p in loss.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    # Softmax over keys does not see a bias that all keys share; the pooler is not part of an embedding.
    assert {name for name in without if "pooler" not in name and "key.bias" not in name} == set()
    assert any(name.startswith("head.") for name, _ in loss.named_parameters())
    assert any(name.startswith("decoder.") for name, _ in loss.named_parameters())


def test_the_decoder_starts_as_a_copy_of_the_first_block_and_is_trained_even_if_that_is_frozen(masked_model):
    masked_model.requires_grad_(False)
    loss = MaskedAutoencoderLoss(masked_model)
    first = masked_model[0].model.encoder.layer[0].state_dict()
    own = loss.decoder.state_dict()
    assert set(own) == set(first)
    assert all(torch.equal(own[name], value) for name, value in first.items())
    assert not {p.data_ptr() for p in loss.decoder.parameters()} & {p.data_ptr() for p in masked_model.parameters()}
    assert all(parameter.requires_grad for parameter in loss.decoder.parameters())
    assert all(bias.abs().sum() == 0 for bias in (loss.head.bias, loss.head.transform.bias, loss.head.norm.bias))
    # Nothing of the model is trained, so nothing tells of a step: gradients add up as PyTorch has it.
    features = batch(masked_model)
    loss([features]).backward()
    once = loss.head.bias.grad.clone()
    loss([features]).backward()
    assert torch.allclose(loss.head.bias.grad, 2 * once)


def test_the_decoder_drops_out_when_the_model_does(masked_model):
    loss = MaskedAutoencoderLoss(masked_model)
    features = batch(masked_model)
    masked_model.train()
    loss([features])
    assert all(module.training for module in loss.decoder.modules())
    masked_model.eval()
    assert loss([features]).item() == loss([features]).item()
    assert not any(module.training for module in loss.decoder.modules())


def test_own_gradients_are_cleared_with_the_models_and_no_earlier(masked_model):
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES)
    features = batch(masked_model)
    loss([features]).backward()
    once = [p.grad.clone() for p in (*loss.head.parameters(), *loss.decoder.parameters())]
    loss([features]).backward()
    twice = [p.grad.clone() for p in (*loss.head.parameters(), *loss.decoder.parameters())]
    assert all(torch.allclose(b, 2 * a, atol=1e-6) for a, b in zip(once, twice, strict=True))
    masked_model.zero_grad()
    loss([features]).backward()
    again = [p.grad for p in (*loss.head.parameters(), *loss.decoder.parameters())]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("name", ["electra", "albert"])
def test_families_with_narrow_token_embeddings_are_refused(name, tmp_path):
    model = masking_cases.build_elastic(tmp_path, name)
    with pytest.raises(
        UnsupportedModelError, match=r"must have one width, those of (Electra|Albert)Model have 16, 32 and 32"
    ):
        MaskedAutoencoderLoss(model)


def test_one_block_for_all_layers_is_refused(tmp_path):
    config = AlbertConfig(**{**families.CONFIGS["albert"], "embedding_size": 32})
    AlbertModel(config).save_pretrained(tmp_path)
    masking_cases.tokenizer().save_pretrained(tmp_path)
    plain = SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(32, "mean")], device="cpu")
    with pytest.raises(
        UnsupportedModelError,
        match="AlbertModel applies one block [0-9]+ times, so its layers cannot be read apart. Pre-train",
    ):
        MaskedAutoencoderLoss(st_plugins.elastic(plain))


def test_a_pipeline_that_changes_the_width_is_refused(masked_models):
    modules = [*copy.deepcopy(masked_models["mean"]), Dense(32, 16)]
    narrow = st_plugins.elastic(SentenceTransformer(modules=modules, device="cpu"))
    with pytest.raises(UnsupportedModelError, match="BertModel have 32, 32 and 16. Pre-train without modules"):
        MaskedAutoencoderLoss(narrow)


def test_the_menu_is_that_of_starbucks(masked_model):
    loss = MaskedAutoencoderLoss(masked_model)
    assert loss.sizes == (*starbucks_menu(4, 32), (4, 32))
    assert MaskedAutoencoderLoss(masked_model, sizes=[(4, 32)]).sizes == ((4, 32),)
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4"):
        MaskedAutoencoderLoss(masked_model, sizes=[(9, 4)])


def test_the_batch_is_left_as_it_was_and_the_encoder_runs_once(masked_model):
    runs = []
    masked_model[0].model.encoder.layer[3].register_forward_hook(lambda *_: runs.append(1))
    read = []
    masked_model[0].register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0]))
    features = batch(masked_model)
    before = dict(features)
    MaskedAutoencoderLoss(masked_model, sizes=SIZES)([features])
    assert len(runs) == 1
    # Families whose forward takes any keyword would be given the labels.
    assert set(read) == {*masked_model.preprocess(["a text"]), "layers"}
    assert features.keys() == before.keys()
    assert all(features[name] is value for name, value in before.items())


def test_a_batch_of_the_usual_collator_is_refused(masked_model):
    loss = MaskedAutoencoderLoss(masked_model)
    with pytest.raises(LossError, match=r"one column masked for this loss, .*data_collator=st_plugins.training.Nested"):
        loss([masked_model.preprocess(SENTENCES)])
    with pytest.raises(LossError, match="must be one column masked for this loss"):
        loss([batch(masked_model), batch(masked_model)])


def test_a_batch_in_which_nothing_is_hidden_is_refused(masked_model):
    with pytest.raises(LossError, match="at least one hidden token, got none: .* Filter out empty texts"):
        MaskedAutoencoderLoss(masked_model)([batch(masked_model, ["", "zebra"])])


def test_a_loss_that_is_not_a_number_is_refused(masked_model):
    loss = MaskedAutoencoderLoss(masked_model)
    masked_model.train()  # in evaluation the model itself refuses NaN
    with torch.no_grad():
        masked_model[0].model.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    with pytest.raises(LossError, match="The loss must be numbers, got NaN"):
        loss([batch(masked_model)])


def test_a_plain_model_is_refused(masked_models):
    with pytest.raises(UnsupportedModelError, match="a loss over layers must be elastic"):
        MaskedAutoencoderLoss(masked_models["mean"])


def test_what_the_card_says(masked_model):
    loss = MaskedAutoencoderLoss(masked_model, sizes=[(2, 8)])
    assert loss.get_config_dict() == {"sizes": [[2, 8], [4, 32]], "bow_weight": 0.0}
    assert "2410.13230" in loss.citation
