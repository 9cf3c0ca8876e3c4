"""Precisions are compared on the user's text before one of them serves."""

import json
import re

import pytest
import torch

from gpner.agreement import LEAST_AGREEMENT, LEAST_ENTITIES, require_agreement
from gpner.checkpoint import save_checkpoint
from gpner.cli import main
from gpner.errors import ConfigError
from gpner.extractor import Extractor
from gpner.prepacked import multiplies_int8
from tests.models import tiny_text_model
from worker.engine import load_engine
from worker.settings import load_settings

TEXTS = ["Ann met the mayor of Lisbon at Harbour House near the river Tagus while sailors watched. " * 3] * 3


def tiny_extractor(tokenizer, threshold=0.0):
    model = tiny_text_model(tokenizer, thresholds=[threshold, threshold])
    return Extractor(model, tokenizer, model_name="tiny")


def test_an_extractor_agrees_with_itself_and_the_entities_are_counted(wordpiece_tokenizer):
    extractor = tiny_extractor(wordpiece_tokenizer)

    scores = require_agreement(extractor, extractor, TEXTS)

    assert scores.gold == scores.found == scores.correct >= LEAST_ENTITIES
    assert scores.gold == sum(len(extraction.entities) for extraction in extractor.extract(TEXTS))


def test_one_that_finds_other_entities_is_refused_with_the_figures(wordpiece_tokenizer):
    reference, stricter = (tiny_extractor(wordpiece_tokenizer, threshold) for threshold in (0.0, 0.5))
    expected, found = (
        {(n, e.start, e.end, e.label) for n, extraction in enumerate(each.extract(TEXTS)) for e in extraction.entities}
        for each in (reference, stricter)
    )
    f1 = 2 * len(expected & found) / (len(expected) + len(found))
    assert 0 < f1 < LEAST_AGREEMENT

    with pytest.raises(
        ConfigError, match=rf"was: {f1:.1%} \({len(expected)} entities, {len(found)} in int8, .* use precision auto"
    ):
        require_agreement(stricter, reference, TEXTS)


def test_too_little_text_to_tell_is_refused(wordpiece_tokenizer):
    extractor = tiny_extractor(wordpiece_tokenizer)

    with pytest.raises(ConfigError, match=f"must hold at least {LEAST_ENTITIES} entities, the model found: 0; give"):
        require_agreement(extractor, extractor, ["", ""])


needs_int8 = pytest.mark.skipif(
    torch.cuda.is_available() or not multiplies_int8(),
    reason="the model must run on a CPU that multiplies int8 exactly",
)


@needs_int8
def test_the_command_extracts_in_int8_only_after_a_comparison(wordpiece_tokenizer, tmp_path, capsys):
    save_checkpoint(tiny_text_model(wordpiece_tokenizer, thresholds=[-2.0, -2.0]), wordpiece_tokenizer, tmp_path / "m")
    file = tmp_path / "text"
    file.write_text(TEXTS[0])
    command = ["extract", str(tmp_path / "m"), str(file), "--precision", "int8"]

    assert main(command) == 2
    assert "--precision int8 and --agree-on FILE must be given together" in capsys.readouterr().err
    assert main([*command, "--agree-on", str(file)]) == 0

    captured = capsys.readouterr()
    entities = json.loads(captured.out)["entities"]
    in_int8 = Extractor.from_pretrained(tmp_path / "m", precision="int8").extract([TEXTS[0]])[0].entities
    assert [entity["score"] for entity in entities] == [entity.score for entity in in_int8]
    assert re.search(r"int8 agrees with the usual precision to \d+\.\d% of F1 \(\d+ entities\)\n", captured.err)


@needs_int8
def test_a_worker_serves_in_int8_only_after_a_comparison(wordpiece_tokenizer, tmp_path):
    save_checkpoint(tiny_text_model(wordpiece_tokenizer, thresholds=[-2.0, -2.0]), wordpiece_tokenizer, tmp_path / "m")
    (tmp_path / "text").write_text(TEXTS[0])
    (tmp_path / "short").write_text("Ada")
    settings = {"model": str(tmp_path / "m"), "precision": "int8", "max_batch_tokens": 512}

    engine = load_engine(load_settings(**settings, agree_on=str(tmp_path / "text")))

    assert engine.model_revision.endswith("-int8")
    with pytest.raises(ConfigError, match="must hold at least 200 entities"):
        load_engine(load_settings(**settings, agree_on=str(tmp_path / "short")))
    with pytest.raises(ConfigError, match=r"GPNER_AGREE_ON must name a text file in UTF-8, was: .*nowhere"):
        load_engine(load_settings(**settings, agree_on=str(tmp_path / "nowhere")))
