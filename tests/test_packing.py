from hypothesis import given
from hypothesis import strategies as st

from gpner.packing import fill_pack, pack_by_length

LENGTHS = st.lists(st.integers(0, 60), max_size=40)


@given(LENGTHS, st.integers(1, 100))
def test_every_document_is_in_exactly_one_pack(lengths, max_tokens):
    packs = pack_by_length(lengths, max_tokens)

    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(packs)


@given(LENGTHS, st.integers(1, 100))
def test_only_a_document_that_is_too_long_alone_exceeds_the_limit(lengths, max_tokens):
    for pack in pack_by_length(lengths, max_tokens):
        tokens = sum(lengths[index] for index in pack)

        assert tokens <= max_tokens or sum(lengths[index] > 0 for index in pack) == 1


def test_packs_run_from_the_longest_document_to_the_shortest_and_equal_ones_keep_their_order():
    assert pack_by_length([3, 9, 5, 5, 20, 1], max_tokens=10) == [[4], [1], [2, 3], [0, 5]]


def test_a_pack_is_filled_to_the_last_token():
    assert pack_by_length([5, 5, 5], max_tokens=10) == [[0, 1], [2]]


def test_no_documents_make_no_packs():
    assert pack_by_length([], max_tokens=10) == []


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(1, 100), st.data())
def test_a_pack_holds_the_document_that_must_go_and_nothing_that_still_fits_stays_behind(lengths, max_tokens, data):
    first = data.draw(st.integers(0, len(lengths) - 1))

    pack = fill_pack(lengths, max_tokens, first)

    left_behind = set(range(len(lengths))) - set(pack)
    room = max_tokens - sum(lengths[index] for index in pack)
    assert pack[0] == first
    assert len(set(pack)) == len(pack)
    assert room >= 0 or lengths[first] > max_tokens
    assert all(lengths[index] > room for index in left_behind)


def test_neighbours_in_length_join_the_first_document_before_others():
    assert fill_pack([100, 10, 48, 52, 50], max_tokens=160, first=4) == [4, 2, 3, 1]


def test_a_document_longer_than_the_limit_goes_alone():
    assert fill_pack([5, 500, 5], max_tokens=100, first=1) == [1]
