"""Training from files to a checkpoint, on a corpus small enough to be learnt by heart."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel, TrainingArguments

from gpner.checkpoint import load_checkpoint, merge_adapter
from gpner.cli import main
from gpner.dataset import Feature
from gpner.errors import ConfigError, DataError
from gpner.extractor import Extractor
from gpner.model import GlobalPointerForEntities
from gpner.options import TrainingOptions
from gpner.training import SpanTrainer, collate, train

NAMES = ["Ada", "Grace", "Alan", "Edsger"]
PLACES = ["London", "Lisbon", "Zurich"]


def write_corpus(file, n_documents):
    """Sentences with a person, a place, and a person that holds a place inside."""
    lines = []
    for number in range(n_documents):
        name, place = NAMES[number % len(NAMES)], PLACES[number % len(PLACES)]
        text = f"Yesterday {name} left home. The mayor of {place} waited."
        outer = text.index("The mayor")
        entities = [
            [text.index(name), text.index(name) + len(name), "PER"],
            [outer, text.index(" waited"), "PER"],
            [text.index(place), text.index(place) + len(place), "GPE"],
        ]
        lines.append(json.dumps({"id": str(number), "text": text, "entities": entities}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, wordpiece_tokenizer):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(wordpiece_tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    wordpiece_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def options(tmp_path, encoder):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 24)
    return {
        "encoder": str(encoder),
        "train": corpus,
        "dev": corpus,
        "output": tmp_path / "model",
        "context": 32,
        "stride": 4,
        "epochs": 12,
        "batch_size": 4,
        "encoder_learning_rate": 2e-3,
        "head_learning_rate": 1e-2,
        "head_size": 16,
        "weight_decay": 0.0,
    }


def test_training_learns_nested_entities_and_leaves_a_whole_checkpoint(options, tmp_path):
    report = train(TrainingOptions(**options))

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


def test_spans_longer_than_the_longest_entity_are_counted_and_reported(options):
    report = train(TrainingOptions(**{**options, "epochs": 1, "max_entity_tokens": 2}))

    assert len(report.inexpressible) == 24
    assert {label for _, _, _, label in report.inexpressible} == {"PER"}


def test_encoder_and_head_learn_at_their_own_rates_and_biases_do_not_decay(options, encoder, wordpiece_tokenizer):
    chosen = TrainingOptions(**{**options, "weight_decay": 0.1})
    model = GlobalPointerForEntities.from_encoder(encoder, labels=["PER"], context=32, stride=4)
    arguments = TrainingArguments(output_dir=str(options["output"]), use_cpu=True, weight_decay=0.1, report_to=[])
    trainer = SpanTrainer(options=chosen, model=model, args=arguments, processing_class=wordpiece_tokenizer)

    groups = trainer.create_optimizer().param_groups

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert settings.keys() == set(names.values())
    assert settings["head.projection.weight"] == (1e-2, 0.1)
    assert settings["head.label_projection.weight"] == (1e-2, 0.1)
    assert settings["head.projection.bias"] == (1e-2, 0.0)
    assert settings["encoder.embeddings.word_embeddings.weight"] == (2e-3, 0.1)
    assert settings["encoder.encoder.layer.0.attention.output.LayerNorm.weight"] == (2e-3, 0.0)


def test_the_windows_of_a_step_are_concatenated_without_padding():
    features = [Feature([1, 5, 6, 2], 1, 2, [(0, 0, 1)]), Feature([1, 7, 2], 1, 1, [])]

    batch = collate(features)

    assert batch["input_ids"].tolist() == [1, 5, 6, 2, 1, 7, 2]
    assert batch["lengths"].tolist() == [4, 3]
    assert batch["contents"].tolist() == [[1, 3], [1, 2]]
    assert batch["spans"].tolist() == [[0, 0, 0, 1]]


def test_a_corpus_without_entities_is_refused(options):
    options["train"].write_text('{"text": "nothing here", "entities": []}')

    with pytest.raises(DataError, match="needs at least one entity"):
        train(TrainingOptions(**options))


def test_labels_that_only_dev_has_are_refused(options, tmp_path):
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"text": "Ship", "entities": [[0, 4, "VEH"]]}')

    with pytest.raises(DataError, match=r"every label must occur in .*corpus\.jsonl, these do not: VEH"):
        train(TrainingOptions(**{**options, "dev": dev}))


def test_a_context_past_the_encoders_positions_names_the_command_that_extends_it(options):
    with pytest.raises(ConfigError, match=r"at most the 512 positions.*was: 4096.*gpner extend"):
        train(TrainingOptions(**{**options, "context": 4096, "stride": 512}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0, was: 0"),
        ({"warmup": 1.5}, "warmup must be a share of all steps, from 0 to below 1, was: 1.5"),
        ({"head_learning_rate": float("nan")}, "head_learning_rate must be above 0, was: nan"),
        ({"lora_rank": -1}, "lora_rank must be at least 1, or 0"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_loaded(options, change, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**{**options, **change})


def test_the_command_line_trains_evaluates_and_extracts(options, tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**options, "epochs": 8}.items()]
    letter = tmp_path / "letter.txt"
    letter.write_text("Yesterday Grace left home. The mayor of Zurich waited.", encoding="utf-8")

    assert main(["train", *flags]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(options["output"]), str(options["dev"]), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert main(["extract", str(options["output"]), str(letter)]) == 0
    line = json.loads(capsys.readouterr().out)

    trained = json.loads((options["output"] / "metrics.json").read_text())
    assert scores == trained["dev"]
    assert line["id"] == str(letter)
    assert {entity["text"] for entity in line["entities"]} == {"Grace", "The mayor of Zurich", "Zurich"}


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


def test_an_extended_encoder_trains_at_its_longer_context(options, encoder, tmp_path):
    assert main(["extend", str(encoder), str(tmp_path / "longer"), "--context", "600"]) == 0

    train(
        TrainingOptions(**{**options, "encoder": str(tmp_path / "longer"), "context": 600, "stride": 64, "epochs": 1})
    )

    model, tokenizer = load_checkpoint(options["output"])
    assert model.config.context == tokenizer.model_max_length == 600
