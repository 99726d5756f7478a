import copy
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import losses as host
from torch import nn
from transformers import TrainerState, TrainingArguments

import masking_cases
from loss_cases import ANCHORS, POSITIVES
from st_plugins.errors import LossError
from st_plugins.losses import IndividualTemperatureLoss, MaskedAutoencoderLoss, MomentumQueueLoss
from st_plugins.training import LossStateCallback, NestedMaskingCollator
from st_plugins.training.loss_state import FILE_NAME, own_state, restore
from trainers import quiet_trainer

PAIRS = {"anchor": ANCHORS * 2, "positive": POSITIVES * 2, "label": list(range(12))}


def temperature(model):
    return IndividualTemperatureLoss(model, num_examples=12, rho=0.3)


def queue(model):
    return MomentumQueueLoss(model, queue_size=10, momentum=0.9)


def trainer_of(model, loss, folder, *, data=PAIRS, callbacks=None, **options):
    arguments = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "per_device_train_batch_size": 4, **options}
    callbacks = [LossStateCallback(loss)] if callbacks is None else callbacks
    collator = _SameMasks(model) if isinstance(loss, MaskedAutoencoderLoss) else None
    return quiet_trainer(model, loss, folder, data, callbacks=callbacks, data_collator=collator, **arguments)


class _SameMasks(NestedMaskingCollator):
    """The trainer is a batch ahead when it saves the state of the random numbers."""

    def __call__(self, rows):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return super().__call__(rows)


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    return masking_cases.build_elastic(tmp_path_factory.mktemp("masked"))


def differences(ours, theirs):
    """Names of what is not equal in two losses, the models among it."""
    one, other = ours.state_dict(), theirs.state_dict()
    assert one.keys() == other.keys()
    return {name for name in one if one[name].shape != other[name].shape or not torch.allclose(one[name], other[name])}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [temperature, queue])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(plain, tmp_path, kind):
    other, forgetful = copy.deepcopy(plain), copy.deepcopy(plain)
    straight, resumed, forgotten = kind(plain), kind(other), kind(forgetful)
    trainer_of(plain, straight, tmp_path).train()
    files = sorted(tmp_path.glob(f"*/{FILE_NAME}*"))
    assert [file.name for file in files] == [FILE_NAME] * 2
    marks = []
    for file in files:
        with safe_open(str(file), framework="pt") as saved:
            marks.append(saved.metadata()["model"])
    assert marks[0] != marks[1]  # the optimizer changes weights in ways that the digest notices
    checkpoint = str(tmp_path / "checkpoint-2")
    trainer_of(other, resumed, tmp_path, save_strategy="no").train(resume_from_checkpoint=checkpoint)
    assert not differences(straight, resumed)
    trainer_of(forgetful, forgotten, tmp_path, callbacks=[], save_strategy="no").train(
        resume_from_checkpoint=checkpoint
    )
    assert differences(straight, forgotten)


@pytest.mark.slow
def test_the_head_of_a_masked_autoencoder_is_resumed_too(masked_model, tmp_path):
    data = {"text": masking_cases.SENTENCES * 2}
    other = copy.deepcopy(masked_model)
    torch.manual_seed(1)
    straight = MaskedAutoencoderLoss(masked_model, sizes=[(2, 8)])
    torch.manual_seed(2)
    resumed = MaskedAutoencoderLoss(other, sizes=[(2, 8)])
    assert differences(straight, resumed)
    trainer_of(masked_model, straight, tmp_path, data=data).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    trainer_of(other, resumed, tmp_path, data=data, save_strategy="no").train(resume_from_checkpoint=checkpoint)
    assert not differences(straight, resumed)


@pytest.mark.slow
def test_the_file_holds_what_is_not_the_models_and_no_pickle(plain, tmp_path):
    loss = queue(plain)
    trainer_of(plain, loss, tmp_path, max_steps=2).train()
    saved = load_file(tmp_path / "checkpoint-2" / FILE_NAME)
    assert saved.keys() == {"queue"} | {f"momentum_model.{name}" for name in plain.state_dict()}
    assert torch.equal(saved["queue"], loss.queue)
    assert saved["queue"].shape == (8, 16)


def test_a_model_in_a_wrapper_is_not_the_losss_own(plain):
    loss = temperature(plain)
    loss.model = nn.Sequential(plain)  # as distributed training wraps it
    assert own_state(loss, plain).keys() == {"temperatures", "log_averages", "momenta"}
    assert own_state(nn.ModuleList([loss, host.SoftmaxLoss(plain, 16, 3)]), plain).keys() == {
        "0.temperatures",
        "0.log_averages",
        "0.momenta",
        "1.classifier.weight",
        "1.classifier.bias",
    }


def test_shared_tensors_are_saved_once_and_stay_shared(plain):
    loss = nn.Module()
    loss.model, loss.a, loss.b = plain, nn.Linear(3, 3), nn.Linear(3, 3)
    loss.b.weight = loss.a.weight
    found = {name: value.detach() + 1 for name, value in own_state(loss, plain).items()}
    assert found.keys() == {"a.weight", "a.bias", "b.bias"}
    restore(loss, found, own_state(loss, plain))
    assert torch.equal(loss.b.weight, found["a.weight"])
    assert loss.b.weight is loss.a.weight


def moment(folder, step, *, is_first=True):
    state = TrainerState(global_step=step, is_world_process_zero=is_first)
    return TrainingArguments(str(folder), report_to="none", use_cpu=True), state, None


def test_a_training_from_the_start_restores_nothing(plain, tmp_path):
    LossStateCallback(temperature(plain)).on_train_begin(*moment(tmp_path, 0), model=plain)


def test_only_the_first_process_writes(plain, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    callback = LossStateCallback(temperature(plain))
    callback.on_save(*moment(tmp_path, 2, is_first=False), model=plain)
    assert not list((tmp_path / "checkpoint-2").iterdir())
    callback.on_save(*moment(tmp_path, 2), model=plain)
    assert [file.name for file in (tmp_path / "checkpoint-2").iterdir()] == [FILE_NAME]


def test_another_folder_can_be_named(plain, tmp_path):
    loss = temperature(plain)
    loss.temperatures += torch.rand(12)
    (tmp_path / "checkpoint-2").mkdir()
    LossStateCallback(loss).on_save(*moment(tmp_path, 2), model=plain)
    shutil.move(tmp_path / "checkpoint-2", tmp_path / "moved")
    again = temperature(plain)
    with pytest.raises(LossError, match="must hold what the loss had learned, .*checkpoint-2.* does not exist. Name"):
        LossStateCallback(again).on_train_begin(*moment(tmp_path, 2), model=plain)
    LossStateCallback(again, checkpoint=tmp_path / "moved").on_train_begin(*moment(tmp_path, 2), model=plain)
    assert torch.equal(again.temperatures, loss.temperatures)


def test_what_belongs_to_another_model_or_loss_is_refused(plain, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    loss = temperature(plain)
    LossStateCallback(loss).on_save(*moment(tmp_path, 2), model=plain)
    with pytest.raises(
        LossError, match="the one that was saved, .*these differ: log_averages, .*, queue, temperatures"
    ):
        LossStateCallback(queue(plain)).on_train_begin(*moment(tmp_path, 2), model=plain)
    with torch.no_grad():
        next(plain.parameters()).add_(1.0)
    with pytest.raises(LossError, match="must belong to the model that is resumed, it was saved with another one"):
        LossStateCallback(loss).on_train_begin(*moment(tmp_path, 2), model=plain)
    save_file({"temperatures": torch.ones(3)}, tmp_path / "checkpoint-2" / FILE_NAME)  # written by something else
    with pytest.raises(LossError, match="must belong to the model that is resumed"):
        LossStateCallback(loss).on_train_begin(*moment(tmp_path, 2), model=plain)


def test_a_parameter_of_another_shape_is_refused(plain):
    loss = host.SoftmaxLoss(plain, 16, 3)
    saved = {name: value.detach().clone() for name, value in own_state(loss, plain).items()}
    saved["classifier.bias"] = torch.zeros(5)
    with pytest.raises(LossError, match="made with the same options, these differ: classifier.bias"):
        restore(loss, saved, own_state(loss, plain))


def test_saving_where_there_is_no_checkpoint_is_refused(plain, tmp_path):
    with pytest.raises(LossError, match="must save checkpoints in its output folder, .*checkpoint-2 does not exist"):
        LossStateCallback(temperature(plain)).on_save(*moment(tmp_path, 2), model=plain)
