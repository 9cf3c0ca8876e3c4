"""The life of a training run: started, killed, resumed, refused, out of disk, and what it leaves behind."""

import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AlbertConfig, AlbertModel

from gpner.checkpoint import load_checkpoint
from gpner.cli import main
from gpner.errors import ConfigError, DataError, EncoderError, TrainingError
from gpner.run_folder import RunFolder, run_settings, write_text
from gpner.training import epochs_since_best, train
from gpner.training_options import TrainingOptions
from tests.terminals import Terminal
from tests.training_fixtures import as_flags, save_encoder

COMMAND = [sys.executable, "-m", "gpner.cli", "train"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def wait_until(predicate, seconds=90):
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def cut_off_after_an_epoch(options, cut_off):
    """Start a run as its own process and call `cut_off` with it when a checkpoint is complete."""
    process = subprocess.Popen([*COMMAND, *as_flags(options)], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: RunFolder(options["output"]).last_checkpoint() or process.poll() is not None)
        cut_off(process)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert not (options["output"] / "metrics.json").exists()
    return process.returncode, errors


def train_until_ctrl_c(options, words):
    """Begin or continue a run and interrupt it once its log says these words."""

    def press(record):
        if words in record.getMessage():
            signal.raise_signal(signal.SIGINT)
        return True

    log = logging.getLogger("gpner.progress")
    log.addFilter(press)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(TrainingOptions(**options, resume=True))
    finally:
        log.removeFilter(press)


def test_adapters_patience_and_accumulation_go_on_as_if_never_interrupted(options, tmp_path):
    rates = {"encoder_learning_rate": 1e-2, "head_learning_rate": 3e-2}
    chosen = {**options, **rates, "batch_size": 2, "accumulation": 2, "patience": 2, "lora_rank": 2}
    whole = train(TrainingOptions(**{**chosen, "output": tmp_path / "uninterrupted"}))
    epochs, steps_per_epoch = len(whole.history), whole.history[0]["step"]
    best = epochs - 2
    assert 1 < best < 10

    # Within the best epoch, within the last one, and when patience has ended the last one.
    for steps in ((best - 1) * steps_per_epoch, (epochs - 1) * steps_per_epoch):
        train_until_ctrl_c(chosen, f"step {steps + 1}, ")
        assert RunFolder(options["output"]).last_state().global_step == steps
    train_until_ctrl_c(chosen, "train_runtime")
    resumed = train(TrainingOptions(**chosen, resume=True))

    assert (resumed.history, resumed.dev) == (whole.history, whole.dev)
    assert_same_bits(weights(options["output"]), weights(tmp_path / "uninterrupted"))


@pytest.mark.parametrize("epochs", [0.5, 1.5])
def test_a_run_that_was_killed_after_its_last_step_trains_no_further(epochs, options, tmp_path):
    chosen = {**options, "epochs": epochs}
    whole = train(TrainingOptions(**{**chosen, "output": tmp_path / "uninterrupted"}))

    train_until_ctrl_c(chosen, "train_runtime")
    resumed = train(TrainingOptions(**chosen, resume=True))

    assert (resumed.history, resumed.dev) == (whole.history, whole.dev)
    assert_same_bits(weights(options["output"]), weights(tmp_path / "uninterrupted"))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(options, tmp_path):
    train(TrainingOptions(**{**options, "output": tmp_path / "uninterrupted"}))
    cut_off_after_an_epoch(options, lambda process: process.send_signal(signal.SIGKILL))
    last = RunFolder(options["output"]).last_checkpoint()

    report = train(TrainingOptions(**options, resume=True))

    assert 1 <= int(last.name.rpartition("-")[2]) / 6 < 12
    assert [epoch["epoch"] for epoch in report.history] == list(range(1, 13))
    assert_same_bits(weights(options["output"]), weights(tmp_path / "uninterrupted"))


@pytest.mark.slow
def test_a_terminal_shows_loss_and_f1_in_a_bar_until_ctrl_c_leaves_one_line_that_says_how_to_continue(options):
    with Terminal(["train", *as_flags(options)], {"NO_COLOR": "1"}, module="gpner.cli") as terminal:
        shown = terminal.read_until("  F1 ", seconds=90)
        terminal.interrupt()
        ended = terminal.read_until("interrupted; the same command with --resume continues\r\n", seconds=60)

        assert terminal.end() == 130
    assert re.search(r"epoch \d+\.\d\d  loss \d+\.\d{3}  F1 ", shown)
    assert "Traceback" not in ended
    assert not (options["output"] / "metrics.json").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_the_run_to_be_resumed(options, tmp_path):
    def fill_disk(process):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, errors = cut_off_after_an_epoch(options, fill_disk)

    last = RunFolder(options["output"]).last_checkpoint()
    assert code == 2
    assert errors.splitlines()[-1].startswith(f"error: checkpoints must be written to {options['output']}, they could")
    assert f"what is whole stays in {last}" in errors
    assert "Traceback" not in errors
    load_checkpoint(last)
    assert train(TrainingOptions(**options, resume=True)).dev.micro.f1 > 0.95


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(options, tmp_path, wordpiece_tokenizer):
    settings = {"hidden_dropout_prob": 0.0}
    encoder = save_encoder(tmp_path / "encoder", wordpiece_tokenizer, **settings)
    chosen = {**options, "encoder": str(encoder), "epochs": 4, "encoder_learning_rate": 1e-3}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    flags = as_flags({**chosen, "output": tmp_path / "two", "max_pack_tokens": 40})

    subprocess.run([*torchrun, *COMMAND[1:], *flags], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    one = train(TrainingOptions(**{**chosen, "batch_size": 8, "output": tmp_path / "one"}))

    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert [epoch["step"] for epoch in two["history"]] == [3, 6, 9, 12]
    assert two["dev"]["micro"]["f1"] == pytest.approx(one.dev.micro.f1, abs=0.02)
    assert max(epoch["eval_f1"] for epoch in two["history"]) == two["dev"]["micro"]["f1"]
    of_two = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(of_two[name], tensor, atol=2e-3, rtol=1e-2)


def test_training_stops_early_and_keeps_the_best_epoch(options):
    report = train(TrainingOptions(**{**options, "patience": 2, "epochs": 40}))

    scores = [epoch["eval_f1"] for epoch in report.history]
    assert len(scores) < 40
    assert epochs_since_best(report.history) == 2
    assert report.dev.micro.f1 == max(scores)


def test_a_finished_run_holds_all_there_is_to_say_of_it(options):
    train(TrainingOptions(**{**options, "epochs": 3}))

    folder = options["output"]
    assert {file.name for file in folder.iterdir()} >= {
        "README.md",
        "config.json",
        "curves.png",
        "metrics.json",
        "model.safetensors",
        "options.json",
        "tensorboard",
        "tokenizer.json",
        "training.log",
    }
    assert not {"checkpoints", "unfinished"} & {file.name for file in folder.iterdir()}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = (folder / "training.log").read_text()
    assert log.count("eval_f1") == 3
    assert "step 18" in log
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/f1")] == [6, 12, 18]
    assert len(events.Scalars("train/loss")) == 18


def test_away_from_a_terminal_progress_is_a_line_an_epoch(options, capfd):
    assert main(["train", *as_flags({**options, "epochs": 2})]) == 0

    shown = capfd.readouterr()
    assert "(best epoch)" in shown.out
    lines = shown.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all("loss" in line and "F1" in line for line in lines)


def test_a_folder_with_a_finished_run_is_refused_with_what_to_do(options):
    chosen = {**options, "epochs": 1}
    train(TrainingOptions(**chosen))
    before = weights(options["output"])

    for flags in (chosen, {**chosen, "resume": True}):
        with pytest.raises(ConfigError, match=r"holds a finished run; score it with `gpner evaluate`, name another"):
            train(TrainingOptions(**flags))

    assert_same_bits(weights(options["output"]), before)


def test_an_unfinished_run_is_continued_only_on_request_and_with_its_own_options(tmp_path):
    settings = {"epochs": 2.0, "content of train": "1f"}
    RunFolder(tmp_path / "run").claim(settings, resume=False)

    with pytest.raises(ConfigError, match="holds an unfinished run; continue it with --resume"):
        RunFolder(tmp_path / "run").claim(settings, resume=False)
    with pytest.raises(ConfigError, match=r"differ: epochs was 2.0, is 3.0; give the same flags and files again"):
        RunFolder(tmp_path / "run").claim({**settings, "epochs": 3.0}, resume=True)
    RunFolder(tmp_path / "run").claim(settings, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_anything_but_a_run_is_refused_and_left_as_it_is(tmp_path, resume):
    notes = tmp_path / "project" / "checkpoints" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    folder = RunFolder(tmp_path / "project")

    with pytest.raises(ConfigError, match=r"new folder, .*project is not empty; name another"), folder.saving():
        folder.claim({}, resume=resume)

    assert notes.read_text() == "mine"
    assert [file.name for file in folder.path.iterdir()] == ["checkpoints"]


def test_a_run_does_not_go_on_from_an_encoder_that_has_changed(options, encoder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(encoder, copied)
    chosen = TrainingOptions(**{**options, "encoder": str(copied)})
    RunFolder(options["output"]).claim(run_settings(chosen, {}, 1), resume=False)

    (copied / "README.md").write_text("says nothing to a model")
    RunFolder(options["output"]).claim(run_settings(chosen, {}, 1), resume=True)
    with (copied / "model.safetensors").open("ab") as file:
        file.write(b"other")
    with pytest.raises(ConfigError, match=r"differ: content of encoder was [0-9a-f]{64}, is [0-9a-f]{64}; give the"):
        RunFolder(options["output"]).claim(run_settings(chosen, {}, 1), resume=True)


def test_a_mistake_that_is_found_before_training_leaves_no_run_behind(options, wordpiece_tokenizer, tmp_path):
    sizes = {"vocab_size": len(wordpiece_tokenizer), "embedding_size": 8, "hidden_size": 16, "intermediate_size": 16}
    AlbertModel(AlbertConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "albert")
    wordpiece_tokenizer.save_pretrained(tmp_path / "albert")
    chosen = {**options, "encoder": str(tmp_path / "albert"), "epochs": 1}

    with pytest.raises(EncoderError, match="gradient_checkpointing needs an encoder that supports it, albert does not"):
        train(TrainingOptions(**chosen, gradient_checkpointing=True))

    assert list(options["output"].iterdir()) == []


def test_a_mistake_that_is_found_later_leaves_the_run_as_it_is(tmp_path):
    begun, saved, resumed = (RunFolder(tmp_path / name) for name in ("begun", "saved", "resumed"))
    RunFolder(resumed.path).claim({}, resume=False)

    for folder, error in ((begun, TrainingError), (saved, DataError), (resumed, DataError)):
        folder.claim({}, resume=True)
        if folder is saved:
            (folder.checkpoints / "checkpoint-6").mkdir(parents=True)
            (folder.checkpoints / "checkpoint-6" / "complete").touch()
        with pytest.raises(error), folder.saving():
            raise error

    assert all((folder.path / "options.json").exists() for folder in (begun, saved, resumed))
    assert saved.last_checkpoint()


def test_a_half_written_checkpoint_is_not_taken_for_a_whole_one(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (6, 12, 18):
        (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    for step in (6, 12):
        (folder.checkpoints / f"checkpoint-{step}" / "complete").touch()

    assert folder.last_checkpoint() == folder.checkpoints / "checkpoint-12"


def test_a_result_that_could_not_be_written_replaces_nothing(tmp_path):
    (tmp_path / "model.safetensors").write_text("before")
    folder = RunFolder(tmp_path)

    def fail_half_way():
        with folder.result() as aside:
            (aside / "model.safetensors").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_half_way()

    assert (tmp_path / "model.safetensors").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_text_that_could_not_be_written_leaves_nothing(tmp_path):
    (tmp_path / "page.html").mkdir()

    with pytest.raises(OSError, match=r"page\.html"):
        write_text(tmp_path / "page.html", "content")

    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_resuming_starts_a_run_where_there_is_none(options, capfd):
    output = options["output"].parent / "model[/b]"  # no markup
    assert main(["train", *as_flags({**options, "epochs": 1, "resume": True, "output": output})]) == 0

    shown = capfd.readouterr().out
    assert "trained on 24 windows" in shown
    assert f"the model is in {output}\n" in shown
