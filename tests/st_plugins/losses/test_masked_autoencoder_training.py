import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import families
import masking_cases
from masking_cases import SENTENCES, batch
from st_plugins.losses import MaskedAutoencoderLoss
from st_plugins.training import NestedMaskingCollator
from trainers import quiet_trainer, without_dropout

SIZES = [(1, 4), (2, 8), (3, 32)]
ENCODERS = [
    name
    for name in families.available()
    if name in ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "deberta-v2", "modernbert", "nomic_bert")
]


class _Gradients(TrainerCallback):
    def __init__(self, loss):
        self.loss, self.seen = loss, []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.seen.append(self.loss.head.transform.weight.grad.clone())


class _SameBatch:
    """The same masking in every step."""

    valid_label_columns = ()

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, rows):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.collator(rows)


def trainer_of(model, loss, folder, texts, collator=None, callbacks=(), **options):
    collator = collator or NestedMaskingCollator(model)
    options = {"per_device_train_batch_size": 12, "callbacks": list(callbacks), **options}
    return quiet_trainer(model, loss, folder / "run", {"text": texts}, data_collator=collator, **options)


def test_the_trainer_steps_with_the_gradient_of_one_batch(masked_model, tmp_path):
    loss = MaskedAutoencoderLoss(masked_model, sizes=SIZES)
    without_dropout(loss)
    gradients = _Gradients(loss)
    collator = _SameBatch(NestedMaskingCollator(masked_model))
    texts = [SENTENCES[0]] * 6
    options = {"max_steps": 4, "learning_rate": 0.0, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    trainer_of(masked_model, loss, tmp_path, texts, collator, [gradients], **options).train()
    assert len(gradients.seen) == 4
    assert gradients.seen[0].abs().sum() > 0
    assert all(torch.allclose(g, gradients.seen[0], rtol=1e-4, atol=1e-7) for g in gradients.seen)


def masked_token_loss(loss, model, features, layer, dim):
    with torch.no_grad():
        inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
        states = model({**inputs, "layers": (layer,)})["token_embeddings"][..., :dim]
        vocabulary = model[0].model.get_input_embeddings().weight
        return loss.head.cross_entropy(states, features["encoder_labels"], vocabulary).item()


@pytest.mark.slow
def test_the_ordinary_trainer_lowers_the_loss_and_improves_the_smaller_sizes(masked_model, tmp_path):
    loss = MaskedAutoencoderLoss(masked_model, sizes=[(1, 8), (2, 16)])
    torch.manual_seed(99)
    held_out = batch(masked_model, SENTENCES * 20)
    head, decoder = copy.deepcopy(loss.head.state_dict()), copy.deepcopy(loss.decoder.state_dict())
    before = {size: masked_token_loss(loss, masked_model.eval(), held_out, *size) for size in loss.sizes}
    start = loss([held_out]).item()
    trainer_of(masked_model, loss, tmp_path, SENTENCES * 10, max_steps=60, learning_rate=1e-2).train()
    masked_model.eval()
    # The best guess of somebody who knows how frequent each hidden token is, and does not read.
    labels = held_out["encoder_labels"]
    frequency = torch.bincount(labels[labels >= 0]) / (labels >= 0).sum()
    blind = torch.special.entr(frequency).sum().item()
    assert loss([held_out]).item() < 0.75 * start
    for size in loss.sizes:
        assert masked_token_loss(loss, masked_model, held_out, *size) < min(0.75 * before[size], 0.9 * blind)
    # Head and decoder were optimised with the model, and stay with the loss.
    assert all(not torch.equal(value, head[name]) for name, value in loss.head.state_dict().items())
    assert all(not torch.equal(value, decoder[name]) for name, value in loss.decoder.state_dict().items())
    assert masked_model[0].sizes == []
    masked_model.save_pretrained(str(tmp_path / "model"))
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert set(saved) == set(masked_model[0].model.state_dict())
    assert not [file for file in (tmp_path / "model").rglob("*.safetensors") if file.name != "model.safetensors"]
    assert "MaskedAutoencoderLoss" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("name", families.but_slow(ENCODERS, "bert", "modernbert"))
def test_families_train(name, tmp_path):
    model = masking_cases.build_elastic(tmp_path, name)
    loss = MaskedAutoencoderLoss(model, sizes=SIZES)
    features = batch(model)
    value = loss([features])
    value.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in loss.decoder.named_parameters() if p.grad is not None)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        loss([features]).backward()
        optimizer.step()
    assert loss([features]).item() < 0.9 * value.item()
