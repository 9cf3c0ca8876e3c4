"""The kernel on a machine without a GPU: run by Triton's interpreter, and compiled for GPUs."""

import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs Triton, which is not for this platform")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from gpner import decoding, decoding_triton
from gpner.heads import SpanFactors

GAPS_AND_LENGTHS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90)), min_size=1, max_size=2)


@pytest.fixture(scope="module")
def interpret():
    """Calls functions of this module in a process where Triton interprets its kernels instead of compiling them.

    It looks for the variable when it is loaded, and torch loads it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            process.submit(len, "").result()
        yield lambda function, *arguments: process.submit(function, *arguments).result()


def random_factors(length, groups, n_labels, head_size, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, length, groups, head_size, generator=generator)
    biases = torch.randn(2, length, n_labels, generator=generator)
    return SpanFactors(vectors[0], vectors[1], biases[0], biases[1])


def decode_in_both_ways(contents, groups, n_labels, head_size, seed, threshold, max_entity_tokens):
    """The spans, and how many cells were looked at to find them: by the kernel, then by torch."""
    length = contents[-1][1] + 1
    factors = random_factors(length, groups, n_labels, head_size, seed)
    limits = decoding._limits(contents, length, max_entity_tokens)
    found = []
    for find_cells in (decoding_triton.find_cells, decoding._find_cells):
        pieces = []

        def search(bounds, limits, find_cells=find_cells, pieces=pieces):
            pieces += find_cells(bounds, limits)
            return iter(pieces)

        thresholds = threshold + torch.arange(n_labels) / 4
        spans = decoding._decode(search, factors, contents, limits, thresholds)
        found.append((spans, sum(len(cells.first) for cells in pieces)))
    return found


@settings(max_examples=6, deadline=None)
@given(
    documents=GAPS_AND_LENGTHS,
    shared=st.booleans(),
    n_labels=st.integers(1, 3),
    head_size=st.sampled_from([2, 30, 64, 66, 100]),
    seed=st.integers(0, 2**32),
    deviations=st.sampled_from([-9.0, 0.0, 1.0, 2.0, 3.0, 4.0, 99.0]),
    max_entity_tokens=st.none() | st.integers(1, 100),
)
@example([(1, 70), (2, 0), (0, 1), (1, 64)], False, 2, 64, 1, 2.0, None)
@example([(3, 130)], True, 5, 64, 2, -99.0, None)
@example([(3, 130)], True, 5, 30, 2, 3.0, 70)
@example([(0, 0)], True, 1, 64, 2, -99.0, None)
def test_the_kernel_finds_the_spans_of_torch_to_the_bit_and_looks_at_no_more_cells(
    interpret, documents, shared, n_labels, head_size, seed, deviations, max_entity_tokens
):
    contents = []
    stop = 0
    for gap, length in documents:
        contents.append((stop + gap, stop + gap + length))
        stop += gap + length
    groups, threshold = 1 if shared else n_labels, deviations * math.sqrt(head_size)

    by_kernel, by_torch = interpret(
        decode_in_both_ways, contents, groups, n_labels, head_size, seed, threshold, max_entity_tokens
    )

    assert by_kernel[0] == by_torch[0]
    assert by_kernel[1] <= 1.01 * by_torch[1] + 2  # other rounding, other cells at the very floor


def cells_of_one_long_document(length):
    """All pieces of a search in which every cell passes."""
    factors = random_factors(length, 1, 1, 2, seed=0)
    bounds = decoding._bounds(factors, torch.full((1, 1), -1000.0))
    pieces = decoding_triton.find_cells(bounds, decoding._limits([(0, length)], length, None))
    return [list(zip(cells.first.tolist(), cells.last.tolist(), strict=True)) for cells in pieces]


def test_more_cells_than_there_is_room_for_come_in_pieces_each_once(interpret):
    length = math.isqrt(2 * decoding_triton.CAPACITY) + 1

    pieces = interpret(cells_of_one_long_document, length)

    cells = [cell for piece in pieces for cell in piece]
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= decoding_triton.CAPACITY
    assert len(cells) == length * (length + 1) // 2
    assert set(cells) == {(first, last) for first in range(length) for last in range(first, length)}


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_compiles_for_tensor_cores(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = ["*fp32"] * 4 + ["*i64", "*i32", "*i64"] + ["i32"] * 3 + ["constexpr"] * 3
    kernel = decoding_triton._search
    sizes = {"HEAD_SIZE": 64, "TILE": decoding_triton.TILE, "CHANNELS": decoding_triton.CHANNELS}
    source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), sizes)

    compiled = compile_kernel(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": decoding_triton.WARPS}
    )

    assert "tf32" in compiled.asm["ptx"]


def test_where_triton_cannot_compile_its_log_says_what_it_needs(caplog):
    assert not decoding_triton.compiles(torch.device("cpu"))

    assert "Triton needs a C compiler" in caplog.text
    assert "torch decodes instead" in caplog.text
