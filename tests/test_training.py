"""Training from files to a checkpoint, on a corpus small enough to be learnt by heart."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from gpner.checkpoint import load_checkpoint, merge_adapter
from gpner.cli import main
from gpner.errors import ConfigError, DataError
from gpner.extractor import Extractor
from gpner.pretraining_options import PretrainingOptions
from gpner.training import train
from gpner.training_options import TrainingOptions
from tests.training_fixtures import as_flags, write_corpus

# Of a form that front matter must quote.
LICENCE = "mine: all rights reserved"


def test_training_learns_nested_entities_and_leaves_a_whole_checkpoint(options, tmp_path):
    report = train(TrainingOptions(**options, licence=LICENCE))

    assert report.dev.micro.f1 > 0.95
    assert max(epoch["eval_f1"] for epoch in report.history) == pytest.approx(report.dev.micro.f1, abs=1e-12)
    extractor = Extractor.from_pretrained(options["output"])
    (extraction,) = extractor.extract(["Yesterday Alan left home. The mayor of Lisbon waited."])
    assert {(e.text, e.label) for e in extraction.entities} == {
        ("Alan", "PER"),
        ("The mayor of Lisbon", "PER"),
        ("Lisbon", "GPE"),
    }
    card = (options["output"] / "README.md").read_text()
    metrics = json.loads((options["output"] / "metrics.json").read_text())
    assert f"{metrics['dev']['micro']['f1']:.3f}" in card
    assert "GPE" in card
    assert ModelCard.load(options["output"] / "README.md").data.license == LICENCE


def test_low_rank_adapters_merge_into_the_checkpoint_that_training_saved(options, encoder, tmp_path):
    train(TrainingOptions(**{**options, "epochs": 2, "lora_rank": 2}))

    merge_adapter(encoder, options["output"] / "adapter", tmp_path / "merged")

    saved, merged = (load_checkpoint(folder)[0] for folder in (options["output"], tmp_path / "merged"))
    assert not any("lora" in name for name in saved.state_dict())
    assert merged.state_dict().keys() == saved.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, atol=1e-6, rtol=1e-6)


def test_spans_that_tokens_cannot_express_are_counted_and_reported(options):
    text = "Yesterday Ada left. unbelievableness"
    entities = [[10, 13, "PER"], [text.index("believ") + 1, text.index("believ") + 4, "PER"]]
    options["train"].write_text(json.dumps({"id": "odd", "text": text, "entities": entities}))

    report = train(TrainingOptions(**{**options, "epochs": 1}))

    assert report.inexpressible == [("odd", *entities[1])]
    assert json.loads((options["output"] / "metrics.json").read_text())["inexpressible"] == [["odd", *entities[1]]]
    assert report.dev.micro.gold == 2


def test_a_model_that_fires_everywhere_is_saved_with_the_scores_of_nothing_found_and_says_so(options, capsys):
    labels = [f"L{number}" for number in range(40)]
    line = {"text": "Ada met Grace. " * 130, "entities": [[0, 3, label] for label in labels]}
    options["train"].write_text(json.dumps(line))
    rates = {"encoder_learning_rate": 1e-12, "head_learning_rate": 1e-12}
    flood = {"context": 512, "stride": 4, "epochs": 1, "head": "global_pointer", **rates}

    report = train(TrainingOptions(**{**options, **flood}))

    assert (report.dev.micro.gold, report.dev.micro.found) == (40, 0)
    saved, _ = load_checkpoint(options["output"])
    assert list(saved.config.labels) == sorted(labels)
    assert json.loads((options["output"] / "metrics.json").read_text())["dev"]["micro"]["f1"] == 0
    # After the epoch, and of what is saved.
    assert capsys.readouterr().err.count("scored as nothing found: a batch must have at most 2,000,000 spans") == 2


def test_spans_longer_than_the_longest_entity_are_counted_and_reported(options):
    report = train(TrainingOptions(**{**options, "epochs": 1, "max_entity_tokens": 2}))

    assert len(report.inexpressible) == 24
    assert {label for _, _, _, label in report.inexpressible} == {"PER"}


def test_a_corpus_without_entities_is_refused(options):
    options["train"].write_text('{"text": "nothing here", "entities": []}')

    with pytest.raises(DataError, match="needs at least one entity"):
        train(TrainingOptions(**options))


def test_a_corpus_without_a_token_is_refused(options, tmp_path):
    train_file = tmp_path / "empty.jsonl"
    train_file.write_text(
        '{"text": "", "entities": []}\n{"text": "\\u200b", "entities": [[0, 1, "PER"], [0, 1, "GPE"]]}'
    )

    with pytest.raises(DataError, match=r"empty\.jsonl: training needs at least one token"):
        train(TrainingOptions(**{**options, "train": train_file}))


def test_a_dev_file_without_entities_is_refused_as_it_can_choose_no_epoch(options, tmp_path):
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"text": "nothing here", "entities": []}')

    with pytest.raises(DataError, match=r"dev\.jsonl: training needs at least one entity"):
        train(TrainingOptions(**{**options, "dev": dev}))


def test_an_empty_file_is_refused(options):
    options["train"].write_text("")

    with pytest.raises(DataError, match=r"corpus\.jsonl: must hold at least one example, was empty"):
        train(TrainingOptions(**options))


def test_one_broken_line_among_many_is_reported_at_once_and_left_out(options, capsys):
    lines = options["train"].read_text().splitlines()
    options["train"].write_text("\n".join([*lines[:5], "{broken", *lines[5:]]))

    assert main(["train", *as_flags({**options, "epochs": 1})]) == 0

    assert "corpus.jsonl:6: " in capsys.readouterr().err
    metrics = json.loads((options["output"] / "metrics.json").read_text())
    assert metrics["windows"] == 24
    assert len(metrics["problems"]) == 2  # the file is training's and dev's
    assert all("corpus.jsonl:6: " in problem for problem in metrics["problems"])


def test_strict_stops_at_a_broken_line(options):
    with options["train"].open("a") as file:
        file.write("\n{broken")

    with pytest.raises(DataError, match=r"corpus\.jsonl:25: "):
        train(TrainingOptions(**options, strict=True))

    assert not options["output"].exists()


def test_documents_longer_than_the_context_are_read_in_windows_and_counted(options):
    short = options["train"].read_text()
    long = json.dumps({"id": "long", "text": "Yesterday Ada left home. " * 12, "entities": [[10, 13, "PER"]]})
    options["train"].write_text(f"{short}\n{long}")

    report = train(TrainingOptions(**{**options, "epochs": 1}))

    assert report.windowed == 1
    assert report.windows > 26


def test_labels_that_only_dev_has_are_refused(options, tmp_path):
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"text": "Ship", "entities": [[0, 4, "VEH"]]}')

    with pytest.raises(DataError, match=r"every label must occur in .*corpus\.jsonl, these do not: VEH"):
        train(TrainingOptions(**{**options, "dev": dev}))


def test_a_context_past_the_encoders_positions_names_the_command_that_extends_it(options):
    with pytest.raises(ConfigError, match=r"at most the 512 positions.*was: 4096.*gpner extend"):
        train(TrainingOptions(**{**options, "context": 4096, "stride": 512}))


def test_entities_longer_than_the_context_are_refused_by_the_option_that_allows_them(options):
    with pytest.raises(ConfigError, match=r"max_entity_tokens must be at most 29 .* was: 30; lower it"):
        train(TrainingOptions(**{**options, "stride": None, "max_entity_tokens": 30}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0, was: 0"),
        ({"epochs": float("inf")}, "epochs must be finite, was: inf"),
        ({"batch_size": 2**31}, "batch_size must be below 2,147,483,648, was: 2147483648"),
        ({"seed": 2**32}, "seed must be below 4,294,967,296, was: 4294967296"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, was: -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0, was: nan"),
        ({"warmup": 1.5}, "warmup must be a share of all steps, from 0 to below 1, was: 1.5"),
        ({"head_learning_rate": float("nan")}, "head_learning_rate must be above 0, was: nan"),
        ({"max_pack_tokens": 0}, "max_pack_tokens must be above 0, was: 0"),
        ({"patience": -1}, "patience must be at least 0, was: -1"),
        ({"lora_rank": -1}, "lora_rank must be at least 1, or 0"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_loaded(options, change, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**{**options, **change})


def test_the_command_line_trains_evaluates_and_extracts(options, tmp_path, capsys):
    letter = tmp_path / "letter.txt"
    letter.write_text("Yesterday Grace left home. The mayor of Zurich waited.", encoding="utf-8")

    assert main(["train", *as_flags({**options, "epochs": 8})]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(options["output"]), str(options["dev"]), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert main(["extract", str(options["output"]), str(letter)]) == 0
    line = json.loads(capsys.readouterr().out)

    trained = json.loads((options["output"] / "metrics.json").read_text())
    assert scores == trained["dev"]
    assert scores["micro"]["f1"] == max(epoch["eval_f1"] for epoch in trained["history"])
    assert line["id"] == str(letter)
    assert {entity["text"] for entity in line["entities"]} == {"Grace", "The mayor of Zurich", "Zurich"}


@pytest.mark.parametrize(
    ("command", "options", "first_group"),
    [("train", TrainingOptions, "data"), ("pretrain", PretrainingOptions, "texts")],
)
def test_the_help_of_training_groups_its_flags_and_says_what_each_does(command, options, first_group, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])

    shown = capsys.readouterr().out
    places = [shown.index(f"\n{group}:\n") for group in (first_group, "model", "optimisation", "run")]
    assert places == sorted(places)
    for option in fields(options):
        assert len(option.metadata["help"].split()) > 3
        assert f"\n  --{option.name.replace('_', '-')}" in shown
    assert "None" not in shown
    assert "False" not in shown


def test_a_users_mistake_ends_as_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["extract", str(tmp_path / "nowhere")]) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: a model folder must hold a config.json")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--encoder", "{}/none", "--train", "{}/c.jsonl", "--dev", "{}/c.jsonl", "--output", "{}/out"],
            "an encoder must",
        ),
        (["extend", "{}/none", "{}/out", "--context", "600"], "an encoder must be a local folder"),
        (["extend", "{}/none", "{}/c.jsonl", "--context", "600"], "the output must be a folder that can be made"),
        (["extend", "{}/none", "{}", "--context", "600"], "is not empty; name another"),
        (["extend", "{}/none", "{}/out", "--context", "10000000000"], "context must be at most 1,048,576 positions"),
        (["evaluate", "{}/none", "{}/broken.jsonl"], "broken.jsonl:1: a line must be one JSON object"),
    ],
)
def test_wrong_paths_and_files_end_as_one_line_that_says_what_to_do(tmp_path, capsys, arguments, message):
    write_corpus(tmp_path / "c.jsonl", 2)
    (tmp_path / "broken.jsonl").write_text("{")

    assert main([argument.format(tmp_path) for argument in arguments]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"c.jsonl", "broken.jsonl"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 7}, "must be one that can be built, this bert cannot: ValueError"),
        ({"hidden_size": "64"}, "expected int, got str"),
        ({"intermediate_size": 32}, "layer.0.intermediate.dense.bias is (64,), not (32,)"),
    ],
)
def test_an_encoder_that_contradicts_itself_is_refused(options, encoder, tmp_path, capsys, change, message):
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, **change}))

    assert main(["train", *as_flags({**options, "encoder": broken})]) == 2

    assert message in capsys.readouterr().err
    assert not options["output"].exists()


def test_ctrl_c_ends_a_command_as_one_line_and_exit_code_130(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "gpner.cli", "convert", str(pipe), str(tmp_path / "out"), "--format", "jsonl"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    with pipe.open("wb"):  # opens when the command has, which then waits for a line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert errors == "interrupted\n"
    assert not (tmp_path / "out").exists()


def test_an_extended_encoder_trains_at_its_longer_context(options, encoder, tmp_path, capsys):
    longer = tmp_path / "longer[/b]"  # no markup
    assert main(["extend", str(encoder), str(longer), "--context", "600"]) == 0
    assert capsys.readouterr().out == f"{longer} reads 600 positions\n"

    train(TrainingOptions(**{**options, "encoder": str(longer), "context": 600, "stride": 64, "epochs": 1}))

    model, tokenizer = load_checkpoint(options["output"])
    assert model.config.context == tokenizer.model_max_length == 600


def test_a_trained_model_is_lengthened_and_trained_further_with_its_head(options, tmp_path):
    train(TrainingOptions(**options))
    assert main(["extend", str(options["output"]), str(tmp_path / "longer"), "--context", "600"]) == 0
    # So small a rate that nothing moves: what it knows is what it was given.
    still = {"epochs": 1, "encoder_learning_rate": 1e-12, "head_learning_rate": 1e-12}
    further = {"encoder": str(tmp_path / "longer"), "output": tmp_path / "further", "context": 600, "stride": 64}

    report = train(TrainingOptions(**{**options, **still, **further}))

    assert report.dev.micro.f1 > 0.95
    short, longer = (load_checkpoint(folder)[0] for folder in (options["output"], tmp_path / "longer"))
    assert len(longer.encoder.embeddings.position_embeddings.weight) == 600
    assert (short.config.context, longer.config.context) == (options["context"], 600)
    (extraction,) = Extractor.from_pretrained(tmp_path / "longer").extract(["The mayor of Lisbon waited. " * 80])
    assert extraction.windows == 1
    assert "training goes on from the encoder and the head" in (tmp_path / "further" / "training.log").read_text()


def test_a_model_with_another_head_lends_its_encoder_alone_and_says_so(options, tmp_path):
    train(TrainingOptions(**{**options, "epochs": 1, "head_size": 8}))
    other = {"encoder": str(options["output"]), "output": tmp_path / "other", "epochs": 1, "head_size": 16}

    train(TrainingOptions(**{**options, **other}))

    log = (tmp_path / "other" / "training.log").read_text()
    assert "was trained with other head_size: its encoder is kept, its head is not" in log
