"""Steps made of packs: the gradients are those of the whole step, whatever the packs are."""

import os
import subprocess
import sys
from pathlib import Path
from types import MethodType

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import TrainerControl, TrainerState, TrainingArguments

from gpner.dataset import Feature
from gpner.errors import EncoderError, TrainingError
from gpner.model import GlobalPointerForEntities
from gpner.run_folder import KeepCheckpoints, RunFolder
from gpner.trainer_setup import recompute_states
from gpner.training import train
from gpner.training.trainer import SpanTrainer, collate, collate_step, finished_copy, with_adapters
from gpner.training_options import TrainingOptions
from tests.models import tiny_model

FEATURES = [
    Feature("a", [1, *range(3, 40), 2], 1, 37, [(0, 0, 4), (1, 2, 3), (0, 30, 30)]),
    Feature("a", [1, 7, 8, 2], 1, 2, []),
    Feature("b", [1, *range(50, 61), 2], 1, 11, [(1, 0, 10)]),
    Feature("c", [1, *range(20, 33), 2], 1, 13, [(0, 3, 4), (0, 3, 5)]),
]
HEADS = [
    {"head": "efficient_global_pointer", "bias_from": "projection"},
    {"head": "efficient_global_pointer", "bias_from": "hidden"},
    {"head": "global_pointer"},
]


@pytest.fixture
def trainer_of(options):
    def make(model):
        arguments = TrainingArguments(output_dir=str(options["output"]), use_cpu=True, weight_decay=0.1, report_to=[])
        return SpanTrainer(options=TrainingOptions(**options), model=model, args=arguments)

    return make


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def gradients(model):
    of_model = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return of_model


def assert_equal_gradients(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient - other[name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("head", HEADS, ids=["projection", "hidden", "global"])
def test_a_steps_gradients_are_the_same_whatever_its_packs(trainer_of, head):
    model = without_dropout(tiny_model(**head))
    trainer = trainer_of(model)
    model.train()
    whole = model(**collate(FEATURES, segment_tokens=10)).loss
    whole.backward()
    expected = gradients(model)

    for budget, n_packs in ((1, 4), (30, 3), (1000, 1)):
        step = collate_step(FEATURES, max_pack_tokens=budget, segment_tokens=10)
        loss = trainer.training_step(model, step)

        assert len(step["packs"]) == n_packs
        torch.testing.assert_close(loss, whole.detach())
        assert_equal_gradients(expected, gradients(model))


# One of two processes that share the step of FEATURES, whose windows have 4, 1, 1 and 1 segments.
SHARED_STEP = """
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from gpner.training.trainer import SpanTrainer, collate_step
from gpner.training_options import TrainingOptions
from tests.models import tiny_model
from tests.test_trainer import FEATURES, without_dropout

folder = Path(sys.argv[1])
torch.manual_seed(0)
model = without_dropout(tiny_model())
options = TrainingOptions(train=folder, dev=folder, encoder="", output=folder)
arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[])
trainer = SpanTrainer(options=options, model=model, args=arguments)
mine = FEATURES[arguments.process_index :: 2]
step = collate_step(mine, max_pack_tokens=1, segment_tokens=10)
trainer.training_step(trainer.accelerator.prepare_model(model), step)
if arguments.process_index == 0:
    torch.save({name: weight.grad for name, weight in model.named_parameters()}, folder / "gradients.pt")
trainer.accelerator.end_training()
"""


@pytest.mark.slow
def test_every_segment_of_a_step_weighs_the_same_whichever_process_reads_it(tmp_path):
    script = tmp_path / "shared_step.py"
    script.write_text(SHARED_STEP)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}

    subprocess.run([*torchrun, str(script), str(tmp_path)], env=environment, check=True)

    torch.manual_seed(0)
    model = without_dropout(tiny_model()).train()
    model(**collate(FEATURES, segment_tokens=10)).loss.backward()
    assert_equal_gradients(gradients(model), torch.load(tmp_path / "gradients.pt"))


def test_the_finished_copy_computes_without_the_autocast_of_training():
    model = tiny_model()
    # As accelerate does for mixed precision.
    model.forward = MethodType(torch.autocast("cpu", dtype=torch.bfloat16)(type(model).forward), model)
    seen = []
    for one in (model, finished_copy(model)):
        one.encoder.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        one(torch.arange(3, 9), [6])

    assert seen == [True, False]


def test_a_checkpoint_with_weights_that_are_no_numbers_never_counts(tmp_path):
    model = tiny_model()
    folder = RunFolder(tmp_path)
    (folder.checkpoints / "checkpoint-6").mkdir(parents=True)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with torch.no_grad():
        model.head.projection.bias[0] = float("inf")

    with pytest.raises(TrainingError, match="weights must be finite numbers, after step 6 they are not; lower"):
        KeepCheckpoints(folder).on_save(arguments, TrainerState(global_step=6), TrainerControl(), model=model)

    assert folder.last_checkpoint() is None


@pytest.mark.parametrize("rank", [0, 2], ids=["all-weights", "adapters"])
def test_checkpointing_changes_no_gradient_even_with_dropout(trainer_of, rank):
    found, calls = [], []
    for checkpointing in (False, True):
        model = tiny_model()
        if checkpointing:
            recompute_states(model.encoder)
        layer = model.encoder.encoder.layer[0].intermediate
        layer.register_forward_hook(lambda *_, checkpointing=checkpointing: calls.append(checkpointing))
        model = with_adapters(model, rank) if rank else model
        torch.manual_seed(1)
        trainer_of(model).training_step(model, collate_step(FEATURES, max_pack_tokens=45, segment_tokens=10))
        found.append(gradients(model))

    assert calls == [False] * 2 + [True] * 4
    assert_equal_gradients(*found)


def test_checkpointing_is_refused_where_the_family_does_not_support_it():
    with pytest.raises(EncoderError, match="needs an encoder that supports it, albert does not; leave it out"):
        recompute_states(tiny_model("albert").encoder)


def test_a_step_names_each_of_its_documents_once():
    step = collate_step(FEATURES, max_pack_tokens=30, segment_tokens=10)

    assert sorted(step["example_ids"]) == ["a", "b", "c"]
    assert sorted(length for pack in step["packs"] for length in pack["lengths"].tolist()) == [4, 13, 15, 39]


def test_the_windows_of_a_pack_are_concatenated_without_padding():
    features = [Feature("a", [1, 5, 6, 2], 1, 2, [(0, 0, 1)]), Feature("b", [1, 7, 2], 1, 1, [])]

    pack = collate(features, segment_tokens=128)

    assert pack["input_ids"].tolist() == [1, 5, 6, 2, 1, 7, 2]
    assert pack["lengths"].tolist() == [4, 3]
    assert pack["contents"].tolist() == [[1, 3], [1, 2]]
    assert pack["spans"].tolist() == [[0, 0, 0, 1]]


def test_encoder_and_head_learn_at_their_own_rates_and_biases_do_not_decay(options, encoder, trainer_of):
    model = GlobalPointerForEntities.from_encoder(encoder, labels=["PER"], context=32, stride=4)

    groups = trainer_of(model).create_optimizer().param_groups

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert settings.keys() == set(names.values())
    assert settings["head.projection.weight"] == (1e-2, 0.1)
    assert settings["head.label_projection.weight"] == (1e-2, 0.1)
    assert settings["head.projection.bias"] == (1e-2, 0.0)
    assert settings["encoder.embeddings.word_embeddings.weight"] == (2e-3, 0.1)
    assert settings["encoder.encoder.layer.0.attention.output.LayerNorm.weight"] == (2e-3, 0.0)


def test_every_step_has_the_rates_the_decay_and_the_clipped_gradient_that_the_options_ask_for(options):
    steps = []

    def watch(optimizer, *_):
        groups = optimizer.param_groups
        norm = nn.utils.get_total_norm([parameter.grad for group in groups for parameter in group["params"]])
        steps.append((norm.item(), [sorted(group[name] for group in groups) for name in ("lr", "weight_decay")]))

    # 24 windows: six steps of four, two of them to warm up.
    chosen = {"epochs": 1, "batch_size": 2, "accumulation": 2, "warmup": 1 / 3, "weight_decay": 0.1}
    handle = register_optimizer_step_pre_hook(watch)
    try:
        train(TrainingOptions(**{**options, **chosen, "max_gradient_norm": 0.01}))
    finally:
        handle.remove()

    of_peak = [0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4]
    assert len(steps) == len(of_peak)
    for share, (norm, (rates, decays)) in zip(of_peak, steps, strict=True):
        assert norm == pytest.approx(0.01, rel=1e-3)
        assert rates == pytest.approx([2e-3 * share] * 2 + [1e-2 * share] * 2)
        assert decays == [0.0, 0.0, 0.1, 0.1]


def test_a_loss_that_is_no_number_stops_training_and_names_the_documents(options):
    absurd = {**options, "encoder_learning_rate": 1e38, "warmup": 0.0, "batch_size": 2}

    with pytest.raises(TrainingError, match=r"at step 2 it was: nan; lower --encoder-learning-rate") as caught:
        train(TrainingOptions(**absurd))

    named = str(caught.value).rpartition(": ")[2].split(", ")
    assert len(set(named)) == 4
    assert set(named) <= {str(number) for number in range(24)}


def test_a_poisoned_weight_stops_the_very_step(trainer_of):
    model = tiny_model()
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[55] = float("nan")

    with pytest.raises(TrainingError, match=r"at step 1 it was: nan.* and the one before: b$"):
        trainer_of(model).training_step(model, collate_step(FEATURES[2:3], max_pack_tokens=100, segment_tokens=10))
