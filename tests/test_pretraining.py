"""Pre-training from text files to an encoder, on texts small enough to be learnt by heart."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertModel,
    TrainerCallback,
)

from gpner.checkpoint import load_tokenizer
from gpner.cli import main
from gpner.errors import CheckpointError, ConfigError, DataError, EncoderError, TrainingError
from gpner.model import load_encoder
from gpner.pretraining import pretrain
from gpner.pretraining.model import load_with_head
from gpner.pretraining.texts import TextDocument
from gpner.pretraining.trainer import MaskedTrainer
from gpner.pretraining.vocabulary import load_vocabulary, train_vocabulary
from gpner.pretraining_options import PretrainingOptions
from gpner.run_folder import KeepCheckpoints
from tests.training_fixtures import as_flags, write_corpus

SENTENCES = ["the house of commons met in london.", "ada wrote a letter to charles.", "rain fell on the old town."]
SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def write_texts(file, n_documents=10, n_sentences=6):
    lines = [
        json.dumps({"text": " ".join(SENTENCES[(number + step) % 3] for step in range(n_sentences))})
        for number in range(n_documents)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A configuration and a vocabulary to start from."""
    folder = tmp_path_factory.mktemp("start")
    BertConfig(**SIZES, max_position_embeddings=64).save_pretrained(folder)
    train_vocabulary([TextDocument("a", tuple(SENTENCES))], 90).save_pretrained(folder)
    return folder


@pytest.fixture
def options(tmp_path, start):
    return {
        "config": str(start / "config.json"),
        "tokenizer": str(start),
        "train": write_texts(tmp_path / "texts.jsonl"),
        "output": tmp_path / "encoder",
        "context": 32,
        "batch_tokens": 64,
        "epochs": 6,
        "learning_rate": 5e-3,
    }


def test_training_from_scratch_learns_and_leaves_an_encoder_that_loads_everywhere(options):
    report = pretrain(PretrainingOptions(**options, licence="mine: all rights reserved"))

    after = report.history[-1]
    assert after["eval_perplexity"] < report.before["eval_perplexity"] / 4
    assert after["eval_perplexity"] == pytest.approx(math.exp(after["eval_loss"]))
    _, loading = AutoModelForMaskedLM.from_pretrained(options["output"], output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert load_encoder(options["output"]).config.num_hidden_layers == 1
    metrics = json.loads((options["output"] / "metrics.json").read_text())
    assert metrics["after"]["eval_perplexity"] == after["eval_perplexity"]
    assert len(metrics["history"]) == 6
    assert metrics["data"]["train"]["other files"] == 0
    card = ModelCard.load(options["output"] / "README.md")
    assert card.data.license == "mine: all rights reserved"
    assert f"{after['eval_perplexity']:.2f}" in card.text


@pytest.mark.parametrize(("file", "use"), [("train", "learn from"), ("eval", "evaluate on")])
def test_texts_without_a_token_are_refused(file, use, options, tmp_path):
    (tmp_path / "no-tokens.txt").write_text("\u200b", encoding="utf-8")
    given = {**options, "eval": options["train"], file: tmp_path / "no-tokens.txt"}

    with pytest.raises(DataError, match=f"texts to {use} must hold at least one token"):
        pretrain(PretrainingOptions(**given))


@pytest.mark.parametrize(("file", "documents"), [(None, 2), ("eval.jsonl", 5)], ids=["held-out share", "file"])
def test_what_is_written_gives_the_perplexity_that_training_reported(file, documents, options, tmp_path):
    given = {**options, "epochs": 1, "eval": file and write_texts(tmp_path / file, n_documents=5)}
    report = pretrain(PretrainingOptions(**given))

    if file:  # other texts to learn from: what is compared is the file's
        write_texts(given["train"], n_documents=3, n_sentences=2)
    start = {"encoder": str(options["output"]), "config": None, "tokenizer": None}
    again = pretrain(PretrainingOptions(**{**given, **start, "output": tmp_path / "again"}))

    assert report.data["eval"]["documents"] == documents
    assert again.before["eval_perplexity"] == pytest.approx(report.history[-1]["eval_perplexity"], rel=1e-6)


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("objective", [None, "nsp"])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(objective, options, tmp_path, monkeypatch):
    settings = {**options, "epochs": 3, "save_steps": 4, "accumulation": 2, "sentence_objective": objective}
    pretrain(PretrainingOptions(**settings))
    killed = {**settings, "output": tmp_path / "killed"}
    start = MaskedTrainer.__init__

    def killing(self, **arguments):
        start(self, **arguments)
        self.add_callback(KillAt(7))

    with monkeypatch.context() as patch:
        patch.setattr(MaskedTrainer, "__init__", killing)
        with pytest.raises(Killed):
            pretrain(PretrainingOptions(**killed))
    assert [folder.name for folder in (killed["output"] / "checkpoints").iterdir()] == ["checkpoint-4"]
    pretrain(PretrainingOptions(**{**killed, "resume": True}))

    whole, resumed = (load_file(folder / "model.safetensors") for folder in (options["output"], killed["output"]))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("epochs", "evaluation"), [(2, 0), (2, 1), (1.5, 1)])
def test_a_run_that_was_killed_at_an_epochs_last_checkpoint_evaluates_as_if_never_killed(
    epochs, evaluation, options, tmp_path, monkeypatch
):
    whole = pretrain(PretrainingOptions(**{**options, "epochs": epochs}))
    steps = whole.history[0]["step"]
    killed = {**options, "epochs": epochs, "output": tmp_path / "killed", "save_steps": steps}
    mark = KeepCheckpoints.on_save

    def mark_and_die(self, args, state, control, **kwargs):
        mark(self, args, state, control, **kwargs)
        if state.global_step == whole.history[evaluation]["step"]:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(KeepCheckpoints, "on_save", mark_and_die)
        with pytest.raises(Killed):
            pretrain(PretrainingOptions(**killed))
    resumed = pretrain(PretrainingOptions(**killed, resume=True))

    figures = [[(entry["step"], entry["eval_loss"]) for entry in report.history] for report in (whole, resumed)]
    assert figures[0] == figures[1]


def test_a_run_from_scratch_that_was_killed_keeps_the_vocabulary_it_learnt(options, tmp_path, monkeypatch):
    settings = {**options, "tokenizer": None, "vocab_size": 90, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(MaskedTrainer, "train", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            pretrain(PretrainingOptions(**settings))
    learnt = (options["output"] / "checkpoints" / "tokenizer" / "tokenizer.json").read_text()

    pretrain(PretrainingOptions(**{**settings, "resume": True}))

    saved = json.loads((options["output"] / "tokenizer.json").read_text())
    assert saved["model"]["vocab"] == json.loads(learnt)["model"]["vocab"]
    assert not (options["output"] / "checkpoints").exists()


def test_swapped_segments_are_told_beside_hidden_words(options, tmp_path):
    texts = [f"{first} begins. {first} begins. {last} ends. {last} ends." for first, last in PAIRS] * 20
    options["train"].write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    train_vocabulary([TextDocument("a", tuple(texts))], 90).save_pretrained(tmp_path / "words")
    sizes = {**SIZES, "num_hidden_layers": 2, "embedding_size": 32, "initializer_range": 0.1}
    AlbertConfig(**sizes, max_position_embeddings=64).save_pretrained(tmp_path / "albert")
    settings = {"config": str(tmp_path / "albert"), "tokenizer": str(tmp_path / "words"), "sentence_objective": "sop"}

    changes = {"epochs": 15, "batch_tokens": 256, "learning_rate": 3e-3}
    report = pretrain(PretrainingOptions(**{**options, **settings, **changes}))

    after = report.history[-1]
    assert after["eval_pair_accuracy"] >= 0.8
    assert after["eval_perplexity"] < report.before["eval_perplexity"] / 2
    _, loading = AutoModelForPreTraining.from_pretrained(options["output"], output_loading_info=True)
    assert not loading["missing_keys"]


PAIRS = [("rain", "town"), ("ada", "letter"), ("london", "house")]


def test_an_objective_of_another_family_is_refused(options):
    with pytest.raises(EncoderError, match="sop needs a albert encoder, was: bert"):
        pretrain(PretrainingOptions(**{**options, "sentence_objective": "sop"}))


def test_an_encoder_is_extended_with_its_head_and_trained_further_at_length(options, tmp_path):
    pretrain(PretrainingOptions(**{**options, "epochs": 1}))
    assert main(["extend", str(options["output"]), str(tmp_path / "longer"), "--context", "600"]) == 0
    write_texts(options["train"], n_documents=4, n_sentences=90)
    changes = {"encoder": str(tmp_path / "longer"), "config": None, "tokenizer": None, "output": tmp_path / "long"}

    report = pretrain(PretrainingOptions(**{**options, **changes, "context": 600, "batch_tokens": 600, "epochs": 1}))

    short, longer = (load_with_head(folder).state_dict() for folder in (options["output"], tmp_path / "longer"))
    assert torch.equal(short["cls.predictions.bias"], longer["cls.predictions.bias"])
    after = report.history[-1]
    assert after["eval_perplexity_long"] < report.before["eval_perplexity_long"]
    assert after["eval_tokens_long"] + after["eval_tokens_short"] > 80
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    assert config["position_extension"]["method"] == "hierarchical"


def test_a_finished_run_holds_all_there_is_to_say_of_it(options):
    pretrain(PretrainingOptions(**{**options, "epochs": 2}))

    folder = options["output"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = (folder / "training.log").read_text()
    assert log.count("eval_perplexity ") == 3
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    losses, perplexities = events.Scalars("train/loss"), events.Scalars("eval/perplexity")
    assert [event.step for event in perplexities] == [0, len(losses) // 2, len(losses)]
    assert not {"checkpoints", "unfinished"} & {file.name for file in folder.iterdir()}


def test_away_from_a_terminal_progress_is_a_line_an_evaluation(options, capfd):
    output = options["output"].parent / "encoder[/b]"  # no markup
    assert main(["pretrain", *as_flags({**options, "epochs": 2, "output": output})]) == 0

    shown = capfd.readouterr()
    assert f"the encoder is in {output}\n" in shown.out
    lines = shown.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {number} of 2" for number in range(3)]
    assert all("perplexity" in line for line in lines)
    assert "loss" in lines[2]
    assert "{" not in shown.out


@pytest.mark.slow
def test_two_processes_train_as_one_that_takes_their_packs_together(options, start, tmp_path):
    config = BertConfig(**SIZES, max_position_embeddings=64, hidden_dropout_prob=0.0)
    config.save_pretrained(tmp_path / "config")
    chosen = {**options, "config": str(tmp_path / "config"), "epochs": 2}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "gpner.cli", "pretrain", *as_flags({**chosen, "output": tmp_path / "two"})]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    one = pretrain(PretrainingOptions(**{**chosen, "accumulation": 2, "output": tmp_path / "one"}))

    assert run.stdout.count("all positions") == 1
    assert run.stderr.count("epoch 2 of 2") == 1
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["before"]["eval_loss"] == pytest.approx(one.before["eval_loss"], rel=1e-5)
    assert [epoch["step"] for epoch in two["history"]] == [epoch["step"] for epoch in one.history]
    of_two, of_one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in of_one.items():
        torch.testing.assert_close(of_two[name], tensor, atol=2e-3, rtol=1e-2)


def test_the_command_line_goes_from_texts_to_an_extractor(options, tmp_path, capsys):
    flags = as_flags({**options, "epochs": 1})
    corpus = write_corpus(tmp_path / "corpus.jsonl", 4)
    train = ["train", "--encoder", str(options["output"]), "--train", str(corpus), "--dev", str(corpus)]

    assert main(["pretrain", *flags]) == 0
    assert "all positions" in capsys.readouterr().out
    assert main([*train, "--output", str(tmp_path / "model"), "--epochs", "1", "--context", "32"]) == 0

    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_gradient_checkpointing_changes_no_result(options, tmp_path):
    pretrain(PretrainingOptions(**{**options, "epochs": 1}))

    recomputed = {**options, "epochs": 1, "gradient_checkpointing": True, "output": tmp_path / "recomputed"}
    pretrain(PretrainingOptions(**recomputed))

    plain, again = (load_file(folder / "model.safetensors") for folder in (options["output"], tmp_path / "recomputed"))
    for name, weight in plain.items():
        torch.testing.assert_close(again[name], weight, atol=1e-6, rtol=1e-5)


def test_a_loss_that_is_no_number_names_the_documents(options):
    with pytest.raises(TrainingError, match=r"at step \d+ it was: nan; lower --learning-rate.*texts\.jsonl:\d"):
        pretrain(PretrainingOptions(**{**options, "learning_rate": 1e30, "max_gradient_norm": 1e30}))


def test_a_context_past_the_positions_names_the_command_that_extends_them(options):
    with pytest.raises(ConfigError, match=r"at most the 64 positions of the encoder, was: 128; .*gpner extend"):
        pretrain(PretrainingOptions(**{**options, "context": 128, "batch_tokens": 128}))

    assert list(options["output"].iterdir()) == []  # the corrected command finds no run of another context


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(options, tmp_path, wordpiece_tokenizer):
    BertModel(BertConfig(**SIZES, vocab_size=90)).save_pretrained(tmp_path / "other")
    wordpiece_tokenizer.save_pretrained(tmp_path / "other")

    with pytest.raises(CheckpointError, match="at most the 90 tokens of the encoder"):
        pretrain(
            PretrainingOptions(**{**options, "encoder": str(tmp_path / "other"), "config": None, "tokenizer": None})
        )


def test_an_encoder_that_is_not_there_leaves_no_run_behind(options, tmp_path):
    with pytest.raises(CheckpointError, match="an encoder must be a local folder or a hub name"):
        pretrain(PretrainingOptions(**{**options, "config": str(tmp_path / "none")}))

    assert not options["output"].exists()


def test_an_encoder_without_a_head_gets_a_new_one_and_the_run_says_so(options, start, tmp_path, capsys):
    tokenizer = load_tokenizer(start)
    BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    given = {name: value for name, value in options.items() if name not in ("config", "tokenizer")}

    assert main(["pretrain", *as_flags({**given, "encoder": tmp_path / "bare", "epochs": 1})]) == 0

    assert "without a trained head" in capsys.readouterr().out
    metrics = json.loads((options["output"] / "metrics.json").read_text())
    assert "cls.predictions.transform.dense.weight" in metrics["new_weights"]


def test_a_vocabulary_file_without_capitals_is_read_as_lower_cased(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "##m", ""]))

    assert load_vocabulary(str(file)).tokenize("Adam") == ["ada", "##m"]
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "ada"]))
    assert load_vocabulary(str(file)).tokenize("A Ada") == ["A", "[UNK]"]
    file.write_text("ada")
    with pytest.raises(CheckpointError, match="BERT's special tokens"):
        load_vocabulary(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "x"}, "exactly one of --encoder and --config"),
        ({"config": None}, "exactly one of --encoder and --config"),
        ({"config": None, "encoder": "x"}, "need --config"),
        ({"tokenizer": None}, "exactly one of --tokenizer and --vocab-size"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"epochs": math.inf}, "epochs must be finite, was: inf"),
        ({"seed": 2**32}, "seed must be below 4,294,967,296, was: 4294967296"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0, was: nan"),
        ({"eval_share": 1.0}, "eval_share must lie between 0 and 1"),
        ({"batch_tokens": 31}, "batch_tokens must be at least the context of 32, was: 31"),
        ({"context": 3}, "context must leave room"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_read(options, change, message):
    with pytest.raises(ConfigError, match=message):
        PretrainingOptions(**{**options, **change})
