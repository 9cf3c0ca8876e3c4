"""Characters, tokens and windows: real tokenizers over random Unicode, checked against the text itself."""

import copy
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from gpner.decoding import Span
from gpner.errors import ConfigError, DocumentError
from gpner.tokenization import TextTokenizer, TokenizedText, Window, align, merge_windows, to_entities

LABELS = ("ORG", "PER")
MIXED = "Müller met 北京市 officials\r\n\tin  Zürich 👩‍👩‍👧 , x\u200by — cafe\u0301 ﬁn [SEP] </s> " + "w" * 130

PIECES = [
    *[
        "北京",
        "中",
        "👩\u200d👩\u200d👧",
        "🇨🇭",
        "❤\ufe0f",
        "e\u0301",
        "o\u0323\u0302",
        "\u0301",
        "क्षि",
        "שָׁ",
        "각",
        "\u1100\u1161",
    ],
    *["\r\n", "\t", " ", "  ", "\u3000", "\xa0", "\u2028", "\x1c", "\x00", "\u200b", "\ufeff", "\ufffd"],
    *["The", " House", "Zürich", "co-op", "İ", "ﬁ", "´", "``", "''", "▁", "Ġ", "[SEP]", "<mask>"],
]
short_texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)
texts = st.lists(st.sampled_from([*PIECES, "w" * 130]) | st.text(max_size=4), max_size=20).map("".join)


@pytest.fixture(scope="module")
def cutter(tokenizer: PreTrainedTokenizerFast) -> TextTokenizer:
    """One that never needs a second window."""
    return TextTokenizer(tokenizer, context=100_000, stride=0)


def whole(tokenizer: PreTrainedTokenizerFast, text: str) -> TokenizedText:
    (tokenized,) = TextTokenizer(tokenizer, context=100_000, stride=0)([text])
    return tokenized


def all_spans(tokenized: TokenizedText) -> list[Span]:
    count = tokenized.n_tokens
    return [Span(0, first, last, 0.0) for first in range(count) for last in range(first, count)]


def words(count: int) -> str:
    return " ".join(["london", "met", "the", "hall"][index * index // 3 % 4] for index in range(count))


@settings(deadline=None)
@given(text=texts)
def test_no_token_has_a_blank_at_its_edges_or_lies_outside_the_text(cutter, text):
    (tokenized,) = cutter([text])

    for start, end in tokenized.offsets:
        assert 0 <= start <= end <= len(text)
        assert text[start:end] == text[start:end].strip()


@settings(deadline=None)
@given(text=texts, data=st.data())
def test_every_entity_cuts_its_exact_text(cutter, text, data):
    (tokenized,) = cutter([text])
    token = st.integers(0, max(0, tokenized.n_tokens - 1))
    ends = data.draw(st.lists(st.tuples(token, token), max_size=20 if tokenized.n_tokens else 0))
    spans = [Span(0, min(pair), max(pair), 0.0) for pair in ends]

    entities = to_entities(tokenized, spans, LABELS)

    for entity in entities:
        assert entity.text == text[entity.start : entity.end] == entity.text.strip() != ""
    characters = [(entity.start, -entity.end) for entity in entities]
    assert characters == sorted(set(characters))


@settings(deadline=None)
@given(text=short_texts)
def test_aligning_is_the_inverse_of_cutting_for_exactly_the_entities_that_tokens_can_cut(cutter, text):
    (tokenized,) = cutter([text])
    possible = {(entity.start, entity.end) for entity in to_entities(tokenized, all_spans(tokenized), LABELS)}
    asked = [(start, end, "PER") for start in range(len(text)) for end in range(start + 1, len(text) + 1)]

    aligned, inexpressible = align(tokenized, asked)

    cut = to_entities(tokenized, [Span(1, first, last, 0.0) for _, first, last in aligned], LABELS)
    found = [(entity.start, entity.end, entity.label) for entity in cut]
    assert sorted(found + inexpressible) == sorted(asked)
    assert {(start, end) for start, end, _ in found} == possible


@settings(deadline=None)
@given(text=texts, more=texts)
def test_a_batch_equals_its_texts_one_by_one(cutter, text, more):
    assert cutter([text, more, text]) == [*cutter([text]), *cutter([more]), *cutter([text])]


@settings(deadline=None)
@given(count=st.integers(1, 120), context=st.integers(3, 60), data=st.data())
def test_windows_cover_every_token_and_overlap_by_the_stride(byte_level_tokenizer, count, context, data):
    stride = data.draw(st.integers(0, context - 3))
    ids = byte_level_tokenizer(words(count), add_special_tokens=False)["input_ids"]

    (tokenized,) = TextTokenizer(byte_level_tokenizer, context=context, stride=stride)([words(count)])

    windows = tokenized.windows
    assert tokenized.n_tokens == len(ids)
    assert tokenized.n_window_tokens == sum(len(window.token_ids) for window in windows)
    for window in windows:
        content = ids[window.first_token : window.last_token + 1]
        assert window.token_ids == [byte_level_tokenizer.cls_token_id, *content, byte_level_tokenizer.sep_token_id]
        assert (window.prefix, len(window.token_ids)) == (1, min(context, len(ids) + 2))
    assert (windows[0].first_token, windows[-1].last_token) == (0, len(ids) - 1)
    overlaps = [before.last_token + 1 - after.first_token for before, after in pairwise(windows)]
    assert all(overlap == stride for overlap in overlaps[:-1])
    assert all(stride <= overlap < context - 2 for overlap in overlaps[-1:])


def test_token_ids_are_those_of_the_tokenizer_itself(tokenizer):
    text = "Müller met 北京市 officials\r\n\tin  Zürich , cafe\u0301 ﬁn"

    tokenized = whole(tokenizer, text)

    assert tokenized.windows[0].token_ids == tokenizer(text)["input_ids"]


def test_blank_and_empty_texts_have_no_entities(tokenizer):
    tokenized = TextTokenizer(tokenizer, context=16, stride=2)(["", " ", "\r\n\t \u3000\x1c"])

    assert tokenized[0] == TokenizedText("", [], ())
    assert [to_entities(text, all_spans(text), LABELS) for text in tokenized] == [(), (), ()]


def test_every_blank_of_unicode_is_cut_off(byte_level_tokenizer):
    blanks = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]
    text = "".join(f"{blank}x{blank}" for blank in blanks)

    tokenized = whole(byte_level_tokenizer, text)

    assert {text[start:end] for start, end in tokenized.offsets} == {"", "x"}


def test_a_combining_mark_belongs_to_the_word_that_it_ends(tokenizer):
    text = "cafe\u0301 \u0301x"

    aligned, inexpressible = align(whole(tokenizer, text), [(0, 5, "ORG"), (0, 4, "ORG")])

    assert len(aligned) + len(inexpressible) == 2
    assert ("ORG", 0) in [(label, first) for label, first, _ in aligned]
    assert (0, 5, "ORG") not in inexpressible


def test_words_that_look_like_special_tokens_are_only_words(tokenizer):
    text = "a [SEP] b </s> c <mask> [CLS]"
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    tokenized = whole(tokenizer, text)

    (window,) = tokenized.windows
    assert special.isdisjoint(window.token_ids[window.prefix : window.prefix + window.n_content])
    assert align(tokenized, [(2, 7, "ORG"), (10, 14, "ORG")])[1] == []


def test_truncation_and_padding_saved_with_a_tokenizer_are_ignored_without_a_word(wordpiece_tokenizer, caplog):
    wordpiece_tokenizer.backend_tokenizer.enable_truncation(128)
    wordpiece_tokenizer.backend_tokenizer.enable_padding(length=128)

    with caplog.at_level(logging.DEBUG):
        long, short = TextTokenizer(wordpiece_tokenizer, context=512, stride=64)([words(2000), "london"])

    assert (long.n_tokens, short.n_tokens) == (2000, 1)
    assert (len(long.windows), len(short.windows[0].token_ids)) == (5, 3)
    assert caplog.records == []


def test_threads_share_a_tokenizer_while_others_change_its_truncation(wordpiece_tokenizer):
    cutter = TextTokenizer(wordpiece_tokenizer, context=64, stride=8)
    documents = [MIXED * (1 + index % 7) for index in range(60)]
    expected = cutter(documents)

    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda document: cutter([document])[0], documents)
        for _ in range(60):
            wordpiece_tokenizer(MIXED, truncation=True, max_length=5, padding="max_length")

    assert list(found) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("ab\ud800c", "document 1 must be valid Unicode, its character 2 is the lone surrogate U\\+D800"),
        (b"bytes", "document 1 must be a string, was: bytes"),
        (None, "document 1 must be a string, was: NoneType"),
    ],
)
def test_what_is_no_text_is_refused(tokenizer, document, message):
    with pytest.raises(DocumentError, match=message):
        TextTokenizer(tokenizer, context=16, stride=2)(["fine", document])


def test_a_single_string_is_not_taken_for_its_characters(tokenizer):
    with pytest.raises(DocumentError, match="put it into a list"):
        TextTokenizer(tokenizer, context=16, stride=2)("London")


@pytest.mark.parametrize(
    ("context", "stride", "message"),
    [
        (2, 0, "context must be at least 3 tokens, special tokens included, was: 2"),
        (16, 14, "stride must lie between 0 and 13 tokens, was: 14"),
        (16, -1, "stride must lie between 0 and 13 tokens, was: -1"),
    ],
)
def test_windows_that_cannot_be_are_refused(tokenizer, context, stride, message):
    with pytest.raises(ConfigError, match=message):
        TextTokenizer(tokenizer, context=context, stride=stride)


@settings(deadline=None)
@given(count=st.integers(0, 120), context=st.integers(3, 40), data=st.data())
def test_merged_windows_equal_the_whole_text_for_spans_that_speak_for_themselves(
    byte_level_tokenizer, count, context, data
):
    stride = data.draw(st.integers(0, context - 3))

    def find(ids: list[int]) -> list[Span]:
        """Spans that some window is sure to hold: they are at most one token longer than the overlap."""
        return [
            Span(length % 2, first, first + length - 1, float(first_id))
            for first, first_id in enumerate(ids)
            for length in range(min(stride + 1, len(ids) - first), 0, -1)
            if sum(ids[first : first + length]) % 3 == 0
        ]

    (tokenized,) = TextTokenizer(byte_level_tokenizer, context=context, stride=stride)([words(count)])

    merged = merge_windows(tokenized.windows, [find(window.token_ids[1:-1]) for window in tokenized.windows])

    assert merged == find(byte_level_tokenizer(words(count), add_special_tokens=False)["input_ids"])


@settings(deadline=None)
@given(stride=st.integers(0, 9), data=st.data())
def test_a_span_is_taken_from_the_window_with_the_most_context_and_from_no_other(byte_level_tokenizer, stride, data):
    (tokenized,) = TextTokenizer(byte_level_tokenizer, context=12, stride=stride)([words(30)])
    windows = tokenized.windows
    end = tokenized.n_tokens - 1
    first = data.draw(st.integers(0, end))
    last = data.draw(st.integers(first, min(end, first + stride)))
    context_in = {
        index: min(
            first - window.first_token if window.first_token > 0 else 1000,
            window.last_token - last if window.last_token < end else 1000,
        )
        for index, window in enumerate(windows)
        if window.first_token <= first and last <= window.last_token
    }
    home = max(context_in, key=lambda index: (context_in[index], -index))

    for index in context_in:
        span = Span(0, first - windows[index].first_token, last - windows[index].first_token, 1.0)
        found = [[span] if other == index else [] for other in range(len(windows))]
        assert merge_windows(windows, found) == ([Span(0, first, last, 1.0)] if index == home else [])


def test_the_edges_of_the_document_are_no_edges():
    windows = [Window([0] * 10, 0, 0, 10), Window([0] * 10, 0, 6, 10)]

    merged = merge_windows(
        windows, [[Span(0, 7, 8, 1.0), Span(0, 9, 9, 2.0)], [Span(0, 1, 2, 3.0), Span(0, 3, 3, 4.0)]]
    )

    # Tokens 7-8 lie one token from the edge in both windows, a tie; token 9 is the last of the first window.
    assert merged == [Span(0, 7, 8, 1.0), Span(0, 9, 9, 4.0)]


def test_spans_through_different_pieces_of_one_character_are_one_entity(byte_level_tokenizer):
    tokenized = whole(byte_level_tokenizer, "👧")
    spans = [Span(0, 0, 3, -1.0), Span(0, 1, 2, 2.0), Span(1, 3, 3, 0.0), Span(0, 0, 0, 1.0)]

    entities = to_entities(tokenized, spans, LABELS)

    assert tokenized.n_tokens == 4
    assert [(entity.text, entity.label) for entity in entities] == [("👧", "ORG"), ("👧", "PER")]
    assert [entity.score for entity in entities] == [pytest.approx(0.880797), 0.5]


@pytest.mark.parametrize(("logit", "score"), [(0.0, 0.5), (-2.0, 0.119203), (800.0, 1.0), (-800.0, 0.0)])
def test_the_score_is_the_sigmoid_of_the_logit_however_large(byte_level_tokenizer, logit, score):
    (entity,) = to_entities(whole(byte_level_tokenizer, "x"), [Span(0, 0, 0, logit)], LABELS)

    assert entity.score == pytest.approx(score, abs=1e-6)


def test_an_entity_takes_all_pieces_of_its_characters(byte_level_tokenizer):
    tokenized = whole(byte_level_tokenizer, "👧x👧")

    assert align(tokenized, [(0, 1, "PER"), (0, 3, "PER")]) == ([("PER", 0, 3), ("PER", 0, 8)], [])


def test_an_added_token_that_swallows_the_blanks_around_it_keeps_its_own_characters(byte_level_tokenizer):
    added = copy.deepcopy(byte_level_tokenizer)
    added.add_tokens(AddedToken("Acme", lstrip=True, rstrip=True))

    tokenized = whole(added, "a  Acme  b")

    assert tokenized.offsets == [(0, 1), (3, 7), (9, 10)]


def test_blanks_at_the_edges_of_a_span_are_left_out(byte_level_tokenizer):
    tokenized = whole(byte_level_tokenizer, "a\r\n\u3000北\r\nb")
    everything_between = Span(0, 1, tokenized.n_tokens - 2, 0.0)

    (entity,) = to_entities(tokenized, [everything_between, Span(0, 1, 2, 9.0)], LABELS)

    assert (entity.start, entity.end, entity.text, entity.score) == (4, 5, "北", 0.5)


def test_an_entity_inside_a_token_cannot_be_expressed(wordpiece_tokenizer):
    tokenized = whole(wordpiece_tokenizer, " London met")

    aligned, inexpressible = align(
        tokenized, [(1, 7, "ORG"), (1, 4, "ORG"), (0, 7, "ORG"), (1, 8, "ORG"), (0, 1, "PER")]
    )

    assert aligned == [("ORG", 0, 0)]
    assert inexpressible == [(1, 4, "ORG"), (0, 7, "ORG"), (1, 8, "ORG"), (0, 1, "PER")]
