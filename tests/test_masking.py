"""Which tokens are hidden: shares, whole words, spans of unspaced characters, chance that repeats."""

import copy
from collections import Counter

import numpy as np
import pytest

from gpner.errors import ConfigError
from gpner.pretraining.masking import BEGINS, BEGINS_UNSPACED, CONTINUES, SPECIAL, Masker, choose_tokens, find_words

TEXT = "The Lord Chancellor's unbelievableness met Müller in Zürich ; 北京市人民政府 sat in Łódź ."


def encode(tokenizer, text):
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend.encode(text, add_special_tokens=False)


def words_of(tokenizer, text):
    """The words of a text, each as the string of its tokens' characters."""
    encoding = encode(tokenizer, text)
    words = []
    for role, (start, end) in zip(find_words(encoding, text), encoding.offsets, strict=True):
        if role == CONTINUES:
            words[-1] = words[-1][0], end
        else:
            words.append((start, end))
    return [text[start:end].strip() for start, end in words]


def roles_of(sizes, unspaced=False):
    """Words of these numbers of tokens, between two special tokens."""
    first = BEGINS_UNSPACED if unspaced else BEGINS
    content = [role for size in sizes for role in [first, *[CONTINUES] * (size - 1)]]
    return np.array([SPECIAL, *content, SPECIAL], dtype=np.uint8)


def slow_choice(roles, generator):
    """BERT's loop over words in random order, for texts without unspaced characters."""
    words = []
    for index, role in enumerate(roles):
        if role == BEGINS:
            words.append([index])
        elif role == CONTINUES:
            words[-1].append(index)
    generator.choice(4, size=len(words) + 2, p=[0.4, 0.3, 0.2, 0.1])  # the cuts that such texts have no use for
    wanted = max(1, round(0.15 * sum(map(len, words))))
    chosen = []
    for number in generator.permutation(np.arange(len(words)) + 1) - 1:
        if len(chosen) + len(words[number]) <= wanted:
            chosen.extend(words[number])
    return sorted(chosen)


def test_a_word_is_all_its_pieces_whatever_the_tokenizer(tokenizer):
    words = words_of(tokenizer, "unbelievableness met unbelievableness")

    assert words == ["unbelievableness", "met", "unbelievableness"]


def test_characters_without_blanks_between_them_are_words_of_their_own(tokenizer):
    words = words_of(tokenizer, "met 北京市人民 in")

    # Two of the tokenizers have learnt pieces of several characters, which cannot be torn apart.
    learnt = [["北京", "市", "人", "民"], ["北京", "市", "人民"]]
    assert words in [["met", *unspaced, "in"] for unspaced in ([*"北京市人民"], *learnt)]


def test_the_pieces_of_one_character_stay_together(byte_level_tokenizer):
    roles = find_words(encode(byte_level_tokenizer, "猫狗"), "猫狗")

    assert roles.tolist() == [BEGINS_UNSPACED, CONTINUES, CONTINUES] * 2


@pytest.mark.parametrize("seed", range(20))
def test_words_are_chosen_as_the_plain_loop_over_them_chooses(seed):
    sizes = np.random.default_rng(seed).integers(1, 5, size=60).tolist()
    roles = roles_of(sizes)

    chosen = choose_tokens(roles, np.random.default_rng(seed))

    assert chosen.tolist() == slow_choice(roles, np.random.default_rng(seed))
    assert len(chosen) == round(0.15 * sum(sizes))


def test_special_tokens_are_never_chosen_and_words_only_whole():
    generator = np.random.default_rng(0)
    roles = roles_of([1, 2, 3, 4] * 30)
    word = np.cumsum(roles != CONTINUES)
    everything = set()

    for _ in range(200):
        chosen = set(choose_tokens(roles, generator).tolist())
        everything |= chosen
        touched = {word[index] for index in chosen}
        assert chosen == {index for index in range(len(roles)) if word[index] in touched}

    assert everything == set(range(1, len(roles) - 1))


def test_unspaced_characters_are_chosen_in_spans_of_one_to_four():
    generator = np.random.default_rng(0)
    runs = Counter()
    for _ in range(300):
        chosen = choose_tokens(roles_of([1] * 400, unspaced=True), generator)
        runs.update(len(run) for run in np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1))

    total = runs.total()
    # Spans that happen to touch make some runs longer, so shares lie somewhat below those that were drawn.
    assert 0.28 < runs[1] / total < 0.42
    assert 0.22 < runs[2] / total < 0.34
    assert sum(n for size, n in runs.items() if size > 4) / total < 0.2


def test_spans_end_where_unspaced_characters_end():
    generator = np.random.default_rng(0)
    roles = np.tile(np.array([BEGINS_UNSPACED, BEGINS], dtype=np.uint8), 100)

    spans = [choose_tokens(roles, generator) for _ in range(50)]

    unspaced = np.concatenate(spans) % 2 == 0
    assert 0.4 < unspaced.mean() < 0.6


def test_a_word_longer_than_the_share_is_passed_over():
    assert len(choose_tokens(roles_of([10]), np.random.default_rng(0))) == 0
    assert choose_tokens(roles_of([10, 1]), np.random.default_rng(0)).tolist() == [11]


def test_of_the_chosen_tokens_80_in_100_are_masked_10_replaced_and_10_kept(wordpiece_tokenizer):
    masker = Masker.of_tokenizer(wordpiece_tokenizer)
    generator = np.random.default_rng(0)
    token_ids = np.full(100_000, 2000)

    hidden, chosen = masker(token_ids, roles_of([1] * 99_998), generator)

    assert len(chosen) == 15_000
    masked = (hidden[chosen] == wordpiece_tokenizer.mask_token_id).mean()
    kept = (hidden[chosen] == 2000).mean()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert kept == pytest.approx(0.1, abs=0.01)
    rest = np.delete(hidden, chosen)
    assert (rest == 2000).all()


def test_no_special_token_stands_in_for_a_chosen_one(tokenizer):
    masker = Masker.of_tokenizer(tokenizer)

    assert not set(masker.ordinary_ids.tolist()) & set(tokenizer.all_special_ids)
    assert len(masker.ordinary_ids) == len(tokenizer) - 5


def test_the_same_seed_hides_the_same(wordpiece_tokenizer):
    masker = Masker.of_tokenizer(wordpiece_tokenizer)
    encoding = encode(wordpiece_tokenizer, TEXT)
    roles = find_words(encoding, TEXT)

    first, again, other = (masker(encoding.ids, roles, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert first[0].tolist() == again[0].tolist()
    assert first[1].tolist() != other[1].tolist()


def test_a_tokenizer_without_a_mask_token_is_refused(wordpiece_tokenizer):
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.mask_token = None

    with pytest.raises(ConfigError, match="must have a mask_token"):
        Masker.of_tokenizer(tokenizer)
