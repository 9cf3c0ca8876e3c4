"""Texts to packs: what is read, cut, held out and paired, and that nothing gets lost on the way."""

import gzip
import json

import numpy as np
import pyarrow
import pytest

from gpner.errors import ConfigError, DataError
from gpner.pretraining.data import MaskedPacks, cut_windows, fill_packs
from gpner.pretraining.masking import CONTINUES
from gpner.pretraining.texts import TextDocument, hold_out, read_texts

TEXT = "Ada met Babbage. 北京市人民政府位于北京。 It rained unbelievably.\nThe town slept"


def documents(*texts):
    return [TextDocument(str(number), (text,)) for number, text in enumerate(texts)]


def sequences_of(read):
    return [document.sequences for document in read.documents]


def test_a_text_file_is_one_document_or_its_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\n\ntwo\n", encoding="utf-8")

    assert sequences_of(read_texts(file, by="document")) == [("one\n\ntwo",)]
    lines = read_texts(file, by="line")
    assert sequences_of(lines) == [("one",), ("two",)]
    assert lines.blank == 1
    assert lines.documents[1].id == f"{file}:3"


def test_a_jsonl_line_is_one_document_whose_lines_stay_together(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    rows = [{"text": "one\ntwo", "id": 5}, {"text": " "}, {"text": "three"}]
    file.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))

    whole, lines = (read_texts(file, by=by) for by in ("document", "line"))

    assert sequences_of(whole) == [("one\ntwo",), ("three",)]
    assert whole.blank == 1
    assert sequences_of(lines) == [("one", "two"), ("three",)]


def test_a_folder_is_read_with_those_in_it_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.TXT", "a.txt", "b/d.txt"):
        (tmp_path / name).write_text(name)

    assert sequences_of(read_texts(tmp_path, by="document")) == [("a.txt",), ("b/d.txt",), ("c.TXT",)]


def test_what_a_folder_holds_beside_texts_is_counted_and_named(tmp_path, caplog):
    for name in ("a.txt", "b.md", "c.json", "d.pdf", "e.log"):
        (tmp_path / name).write_text(name)

    texts = read_texts(tmp_path, by="document")

    assert sequences_of(texts) == [("a.txt",)]
    assert texts.other_files == 4
    assert "left out (4): 'b.md', 'c.json', 'd.pdf', ..." in caplog.text


@pytest.mark.parametrize("name", ["a.jsonl.zst", "A.JSONL.GZ"])
def test_compressed_texts_are_read_whatever_the_case_of_their_ending(tmp_path, name):
    with pyarrow.output_stream(str(tmp_path / name), compression="zstd" if "zst" in name else "gzip") as file:
        file.write(b'{"text": "one"}\n')

    assert sequences_of(read_texts(tmp_path / name, by="document")) == [("one",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}', r"a\.jsonl:2: a line must have a string under the key 'text', was: None"),
        ('{"text": "a"}\n{', r"a\.jsonl:2: a line must be one JSON object"),
        ('{"text": "a\\ud800"}', r"a\.jsonl:1: 'text' must be valid Unicode, was a lone surrogate at 1"),
        ("", "must hold at least one text"),
        ('{"text": "\\n "}', "must hold at least one text"),
    ],
)
def test_a_broken_or_empty_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content)

    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / "a.jsonl", by="document")


def test_other_files_missing_ones_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"texts must be \.txt"):
        read_texts(tmp_path / "a.pdf", by="document")
    with pytest.raises(DataError, match=r"none\.txt: must be a readable file"):
        read_texts(tmp_path / "none.txt", by="document")
    with pytest.raises(DataError, match="it holds none"):
        read_texts(tmp_path, by="document")


def test_a_share_of_the_documents_is_held_out_by_seed():
    some = documents(*map(str, range(50)))

    learnt, held_out = hold_out(some, 0.2, seed=3)

    assert len(held_out) == 10
    assert sorted([*learnt, *held_out], key=some.index) == some
    assert hold_out(some, 0.2, seed=3) == (learnt, held_out)
    assert hold_out(some, 0.2, seed=4)[1] != held_out
    with pytest.raises(DataError, match="at least two documents are needed"):
        hold_out(some[:1], 0.2, seed=0)


def test_windows_hold_every_token_once_in_order(tokenizer):
    whole = tokenizer(TEXT, add_special_tokens=False, truncation=False, padding=False)["input_ids"]

    windows = cut_windows(documents(TEXT, "short"), tokenizer, capacity=7)

    first = [window for window in windows if window.document == "0"]
    assert np.concatenate([window.token_ids for window in first]).tolist() == whole
    assert {len(window.token_ids) for window in first[:-1]} == {7}
    assert all(window.roles[0] != CONTINUES for window in windows)


def test_a_text_that_names_a_special_token_means_its_characters(wordpiece_tokenizer):
    (window,) = cut_windows(documents("press [MASK] twice"), wordpiece_tokenizer, capacity=50)

    assert wordpiece_tokenizer.mask_token_id not in window.token_ids


def test_packs_hold_every_window_once_and_keep_to_the_budget():
    lengths = np.random.default_rng(0).integers(1, 60, size=200).tolist()

    packs = fill_packs(lengths, 100, seed=1)

    assert sorted(index for pack in packs for index in pack) == list(range(200))
    assert max(sum(lengths[index] for index in pack) for pack in packs) <= 100
    assert packs == fill_packs(lengths, 100, seed=1)


def test_masks_change_with_the_epoch_and_are_the_same_in_the_same_one(wordpiece_tokenizer):
    windows = cut_windows(documents(TEXT * 3), wordpiece_tokenizer, capacity=200)
    packs = MaskedPacks(windows, wordpiece_tokenizer, objective=None, max_tokens=300, seed=0)

    first = packs[0]["chosen"].tolist()
    packs.epoch = 1
    second = packs[0]["chosen"].tolist()
    packs.epoch = 0

    assert first != second
    assert packs[0]["chosen"].tolist() == first


def test_a_pack_shows_the_encoder_its_texts_but_for_what_is_hidden(wordpiece_tokenizer):
    texts = [TEXT, "The town slept well that night", "Rain"]
    packs = MaskedPacks(
        cut_windows(documents(*texts), wordpiece_tokenizer, capacity=60),
        wordpiece_tokenizer,
        objective=None,
        max_tokens=300,
        seed=0,
    )

    batch = packs[0]

    restored = batch["input_ids"].index_copy(0, batch["chosen"], batch["labels"])
    parts = restored.split(batch["lengths"].tolist())
    for part, number in zip(parts, batch["documents"], strict=True):
        assert part.tolist() == wordpiece_tokenizer(texts[int(number)], truncation=False, padding=False)["input_ids"]


@pytest.mark.parametrize("objective", ["nsp", "sop"])
def test_pairs_are_cut_between_sentences_and_torn_apart_half_the_time(objective, wordpiece_tokenizer):
    texts = ["Ada left. Babbage stayed.", "Rain fell. Towns slept.", "Ships sailed. Gulls cried."]
    windows = cut_windows(documents(*texts * 100), wordpiece_tokenizer, capacity=60)
    packs = MaskedPacks(windows, wordpiece_tokenizer, objective=objective, max_tokens=20_000, seed=0)
    halves = [text.lower().replace(".", " .").split(" . ") for text in texts]

    batch = packs[0]

    restored = batch["input_ids"].index_copy(0, batch["chosen"], batch["labels"])
    lengths = batch["lengths"].tolist()
    assert 0.4 < batch["torn"].float().mean() < 0.6
    for ids, types, torn in zip(
        restored.split(lengths), batch["token_type_ids"].split(lengths), batch["torn"].tolist(), strict=True
    ):
        pair = [wordpiece_tokenizer.decode(ids[types == segment], skip_special_tokens=True) for segment in (0, 1)]
        first, second = (segment.removesuffix(".").strip() for segment in pair)
        follows = [first, second] in [[half.removesuffix(" .") for half in text] for text in halves]
        if not torn:
            assert follows
        elif objective == "sop":
            assert [second, first] in [[half.removesuffix(" .") for half in text] for text in halves]
        assert types.tolist() == sorted(types.tolist())
        assert ids[0] == wordpiece_tokenizer.cls_token_id
        assert (ids == wordpiece_tokenizer.sep_token_id).sum() == 2
