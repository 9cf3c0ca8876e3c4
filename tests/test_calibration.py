"""Thresholds and temperature fitted to dev examples, kept in the checkpoint, and never mistaken for a test."""

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.checkpoint import load_checkpoint, save_checkpoint
from gpner.cli import main
from gpner.errors import ConfigError, DataError
from gpner.evaluation import evaluate_extractor
from gpner.evaluation.calibration import fingerprint, fit_temperature, fit_threshold, save_tuning, tune
from gpner.evaluation.reliability import measure_reliability
from gpner.examples import Example, read_corpus
from gpner.extractor import Extractor
from tests.models import tiny_text_model

TEXTS = [
    "Ann met the mayor of Lisbon",
    "at Harbour House near the river Tagus while sailors watched",
    "the Lord Chancellor sat in Lincoln's Inn Hall " * 6,
    "London",
]
# Where the entities of the examples begin, in logits: a model with these thresholds finds just what is right.
RIGHT_ABOVE = {"PER": 1.25, "ORG": -1.0}

logits_in_fp32 = st.lists(st.floats(-3.875, 12, width=16), max_size=12)


@pytest.fixture(scope="module")
def untuned(tmp_path_factory, wordpiece_tokenizer):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_text_model(wordpiece_tokenizer, context=24, stride=8, max_entity_tokens=4)
    save_checkpoint(model, wordpiece_tokenizer, folder)
    return folder


@pytest.fixture
def folder(tmp_path, untuned):
    """A checkpoint that a test may change."""
    copied = tmp_path / "model"
    copied.mkdir()
    for file in untuned.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


@pytest.fixture(scope="module")
def examples(untuned):
    """Gold is what the model itself would find with other thresholds."""
    found = Extractor.from_pretrained(untuned, device="cpu").candidates(TEXTS, -4.0)
    return [
        Example(
            str(number), text, tuple(entity for entity in sorted(logits) if logits[entity] > RIGHT_ABOVE[entity[2]])
        )
        for number, (text, logits) in enumerate(zip(TEXTS, found, strict=True))
    ]


def write(file, examples):
    lines = [{"id": e.id, "text": e.text, "entities": e.entities} for e in examples]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def f1_at(threshold, logits, correct, n_gold):
    found = [right for logit, right in zip(logits, correct, strict=True) if logit > threshold]
    return 2 * sum(found) / (n_gold + len(found))


def test_candidates_above_the_thresholds_are_what_the_extractor_finds(untuned, wordpiece_tokenizer):
    model, _ = load_checkpoint(untuned)
    model.config.thresholds = [0.5, -1.5]
    extractor = Extractor(model, wordpiece_tokenizer, model_name="tiny", max_batch_tokens=40)

    candidates = list(extractor.candidates(TEXTS, -4.0))

    assert len(candidates[2]) > len(candidates[3])
    for logits, extraction in zip(candidates, extractor.extract_iter(TEXTS), strict=True):
        kept = {entity: logit for entity, logit in logits.items() if logit > {"PER": 0.5, "ORG": -1.5}[entity[2]]}
        assert kept.keys() == {(e.start, e.end, e.label) for e in extraction.entities}
        for entity in extraction.entities:
            logit = kept[entity.start, entity.end, entity.label]
            assert entity.score == pytest.approx(1 / (1 + math.exp(-logit)))


@settings(deadline=None)
@given(logits=logits_in_fp32, data=st.data())
def test_a_threshold_never_lowers_the_f1_and_no_other_is_worth_more(logits, data):
    correct = [data.draw(st.booleans()) for _ in logits]
    n_gold = sum(correct) + data.draw(st.integers(0, 3))

    threshold = fit_threshold(np.array(logits), np.array(correct, dtype=bool), n_gold)

    assert -4 <= threshold == float(np.float32(threshold))
    if not n_gold:
        assert threshold == 0
        return
    assert f1_at(threshold, logits, correct, n_gold) >= f1_at(0, logits, correct, n_gold)
    worth = f1_at(threshold, logits, correct, n_gold) - abs(threshold) / n_gold
    borders = sorted({-4.0, *logits})
    for lower, upper in pairwise(borders):
        middle = 0.0 if lower <= 0 < upper else (lower + upper) / 2
        assert worth >= f1_at(middle, logits, correct, n_gold) - abs(middle) / n_gold - 1e-9


def test_a_label_with_few_examples_stays_near_0_and_one_with_many_moves():
    logits, correct = np.array([3.0, 2.5, 1.0]), np.array([True, True, False])

    assert fit_threshold(logits, correct, n_gold=2) == 0
    assert fit_threshold(np.repeat(logits, 20), np.repeat(correct, 20), n_gold=40) == 1.75


def test_a_threshold_between_neighbours_of_fp32_still_parts_them():
    lower = np.float32(2.0)
    upper = np.nextafter(lower, np.float32(3))
    logits = np.array([float(upper)] * 50 + [float(lower)] * 50)

    threshold = fit_threshold(logits, np.arange(100) < 50, n_gold=50)

    assert (np.float32(threshold) < upper, np.float32(threshold) < lower) == (True, False)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_outcomes_is_found_again(temperature):
    generator = np.random.default_rng(0)
    logits = generator.normal(1, 3, size=40_000)
    correct = generator.random(len(logits)) < 1 / (1 + np.exp(-logits / temperature))

    assert fit_temperature(logits, correct) == pytest.approx(temperature, rel=0.05)


def test_a_few_right_entities_do_not_make_a_model_certain():
    logits = np.array([2.0, 3.0, 4.0])

    temperature = fit_temperature(logits, np.array([True, True, True]))

    assert np.all(1 / (1 + np.exp(-logits / temperature)) < 0.95)


def test_the_reliability_table_equals_a_count_by_hand():
    scores = [0.0, 0.1, 0.11, 0.2, 0.95, 1.0, 1.0]
    correct = [False, True, False, False, True, True, False]

    reliability = measure_reliability(scores, correct)

    rows = [(row.low, row.high, row.count, row.mean_score, row.share_correct) for row in reliability.bins]
    assert rows == [
        (0.0, 0.1, 2, pytest.approx(0.05), pytest.approx(1 / 2)),
        (0.1, 0.2, 2, pytest.approx(0.155), 0.0),
        (0.9, 1.0, 3, pytest.approx(2.95 / 3), pytest.approx(2 / 3)),
    ]
    assert reliability.count == 7
    assert reliability.expected_calibration_error == pytest.approx((0.9 + 0.31 + 0.95) / 7)


def test_scores_of_nothing_are_reliable():
    reliability = measure_reliability([], [])

    assert (reliability.bins, reliability.count, reliability.expected_calibration_error) == ((), 0, 0.0)


def test_tuning_finds_the_thresholds_that_the_examples_were_made_with(folder, examples):
    tuning = tune(Extractor.from_pretrained(folder, device="cpu"), examples, file="dev.jsonl")

    assert tuning.before.micro.f1 < 0.95 < 0.99 < tuning.after.micro.f1
    assert 0 < tuning.thresholds["PER"] <= RIGHT_ABOVE["PER"] + 0.5
    assert RIGHT_ABOVE["ORG"] - 0.5 < tuning.thresholds["ORG"] < 0
    for label, before in tuning.before.by_label.items():
        assert tuning.after.by_label[label].f1 >= before.f1


def test_a_tuned_checkpoint_is_loaded_with_its_thresholds_and_its_temperature(folder, examples):
    tuning = tune(Extractor.from_pretrained(folder, device="cpu"), examples, file="dev.jsonl")
    save_tuning(folder, tuning)

    tuned = Extractor.from_pretrained(folder, device="cpu")

    assert tuned.model.config.thresholds == list(tuning.thresholds.values())
    assert tuned.model.config.score_temperature == tuning.temperature != 1
    evaluation = evaluate_extractor(tuned, examples)
    assert (evaluation.micro, evaluation.by_label) == (tuning.after.micro, tuning.after.by_label)
    for row, tuned_row in zip(evaluation.reliability.bins, tuning.reliability_after.bins, strict=True):
        assert (row.count, row.share_correct) == (tuned_row.count, tuned_row.share_correct)
        assert row.mean_score == pytest.approx(tuned_row.mean_score, abs=1e-12)
    assert not list(folder.glob("*unfinished*"))
    again = tune(tuned, examples, file="dev.jsonl")
    assert (again.thresholds, again.temperature) == (tuning.thresholds, tuning.temperature)
    assert again.before.micro == tuning.after.micro


def test_a_tuned_model_survives_being_saved_again(folder, examples, tmp_path):
    save_tuning(folder, tune(Extractor.from_pretrained(folder, device="cpu"), examples, file="dev.jsonl"))
    model, tokenizer = load_checkpoint(folder)

    save_checkpoint(model, tokenizer, tmp_path / "copy")

    copied, _ = load_checkpoint(tmp_path / "copy")
    for key in ("thresholds", "score_temperature", "tuned_on"):
        assert getattr(copied.config, key) == getattr(model.config, key)


def test_the_temperature_changes_scores_and_never_what_is_found(untuned, wordpiece_tokenizer):
    model, _ = load_checkpoint(untuned)
    hotter = copy.deepcopy(model)
    hotter.config.score_temperature = 4.0

    plain, mild = (Extractor(m, wordpiece_tokenizer, model_name="m").extract(TEXTS) for m in (model, hotter))

    for left, right in zip(plain, mild, strict=True):
        assert [(e.start, e.end, e.label) for e in left.entities] == [(e.start, e.end, e.label) for e in right.entities]
        for one, other in zip(left.entities, right.entities, strict=True):
            logit = math.log(one.score / (1 - one.score))
            assert other.score == pytest.approx(1 / (1 + math.exp(-logit / 4)), abs=1e-6)


def test_a_checkpoint_from_before_there_were_temperatures_loads(folder):
    config = json.loads((folder / "config.json").read_text())
    for key in ("score_temperature", "tuned_on"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))

    model, _ = load_checkpoint(folder)

    assert (model.config.score_temperature, model.config.tuned_on) == (1.0, None)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_out_of_range_is_refused(folder, temperature):
    config = {**json.loads((folder / "config.json").read_text()), "score_temperature": temperature}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match=r"score_temperature must be above 0, was"):
        load_checkpoint(folder)


def test_a_fingerprint_is_of_texts_and_entities_and_of_nothing_else():
    one, two = Example("a", "Ada met", ((0, 3, "PER"), (0, 7, "ORG"))), Example("b", "x", ())
    renamed = Example("c", "Ada met", ((0, 7, "ORG"), (0, 3, "PER")))

    assert fingerprint([one, two]) == fingerprint([two, renamed])
    assert fingerprint([one, two]) != fingerprint([one])
    assert fingerprint([one]) != fingerprint([Example("a", "Ada met", ((0, 3, "PER"),))])


def test_tuning_without_gold_or_without_a_right_answer_is_refused(untuned):
    extractor = Extractor.from_pretrained(untuned, device="cpu")

    with pytest.raises(DataError, match=r"dev\.jsonl: tuning needs gold entities, has none"):
        tune(extractor, [Example("a", "nothing here", ())], file="dev.jsonl")
    with pytest.raises(DataError, match=r"needs a model that finds something right.*labels: PER, ORG"):
        tune(extractor, [Example("a", "Ann met Bob", ((0, 3, "person"),))], file="dev.jsonl")


def test_the_command_tunes_and_evaluation_gives_the_same_figures_and_says_whose_they_are(
    folder, examples, tmp_path, capsys
):
    dev, test = write(tmp_path / "dev.jsonl", examples), write(tmp_path / "test.jsonl", examples[:2])
    before = Extractor.from_pretrained(folder, device="cpu")

    assert main(["tune", str(folder), str(dev)]) == 0
    shown = capsys.readouterr().out
    assert main(["evaluate", str(folder), str(dev), "--json"]) == 0
    on_dev = capsys.readouterr()
    assert main(["evaluate", str(folder), str(test), "--json"]) == 0
    on_test = capsys.readouterr()

    tuning = tune(before, read_corpus(dev).examples, file="dev.jsonl")
    assert json.loads(on_dev.out)["micro"] == tuning.after.micro.to_dict()
    assert f"{tuning.before.micro.f1:.3f}" in shown
    assert f"{tuning.after.micro.f1:.3f}" in shown
    assert f"temperature {tuning.temperature:.3f}" in shown
    assert "these scores are no honest test" in on_dev.err
    assert on_dev.err.count("\n") == 1
    assert on_test.err == ""
    assert json.loads((folder / "config.json").read_text())["tuned_on"]["file"] == "dev.jsonl"


def test_the_evaluate_command_shows_every_breakdown(folder, examples, tmp_path, capsys):
    dev = write(tmp_path / "dev.jsonl", examples)

    assert main(["evaluate", str(folder), str(dev)]) == 0

    output = capsys.readouterr().out
    for part in ("(macro)", "(micro)", "95 %", "1-128 tokens", "characters", "around it", "boundaries", "calibration"):
        assert part in output
    assert " correct, " in output
    assert " spurious" in output


def test_problems_of_a_file_are_shown_and_with_strict_they_stop_the_command(folder, examples, tmp_path, capsys):
    broken = write(tmp_path / "dev.jsonl", examples)
    broken.write_text(broken.read_text() + "\n{")

    for command in ("evaluate", "tune"):
        assert main([command, str(folder), str(broken)]) == 0
        assert capsys.readouterr().err.startswith(f"{broken}:5: ")
        assert main([command, str(folder), str(broken), "--strict"]) == 2
        assert f"{broken}:5: " in capsys.readouterr().err.replace("\n", "")


def test_tuning_in_a_folder_that_cannot_be_written_leaves_the_model_as_it_was(folder, examples, tmp_path, capsys):
    config = (folder / "config.json").read_text()
    (folder / "config.json.unfinished").mkdir()

    assert main(["tune", str(folder), str(write(tmp_path / "dev.jsonl", examples))]) == 2

    assert "must be in a folder that can be written" in capsys.readouterr().err
    assert (folder / "config.json").read_text() == config


def test_a_page_that_could_not_be_written_is_refused_before_the_work(tmp_path, capsys):
    for page in (tmp_path, tmp_path / "none" / "page.html"):
        assert main(["evaluate", str(tmp_path / "model"), str(tmp_path / "test.jsonl"), "--html", str(page)]) == 2
        assert f"--html must name a file in a folder that is there, was: {page}" in capsys.readouterr().err
