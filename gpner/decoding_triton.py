"""The search for cells on a GPU: one kernel for all documents and groups of a pack, and one wait, for its count.

In torch alone every block of bounds goes through the GPU's memory, and the host waits for each. Here bounds stay in
registers, and only the cells that pass are written. Importing this needs Triton, which comes with torch for CUDA.
"""

import logging
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpner.decoding import Bounds, Cells

logger = logging.getLogger(__name__)

# Sides of a tile of cells, and channels that are multiplied at once: 16 KB of vectors, three times over while they are
# fetched, which every GPU has room for.
TILE = 64
CHANNELS = 32
# With fewer a thread would hold so many cells that it runs out of registers.
WARPS = 8
# Cells that one search has room for, in 1.5 MB; where there are more, the rows are searched in parts.
CAPACITY = 131_072


def find_cells(bounds: Bounds, limits: Tensor) -> Iterator[Cells]:
    """Find the cells within the limits whose bound passes.

    Args:
        bounds: Those of the pack, on its device.
        limits: Token before which spans that start at each token must end; on the host. Shape: (length,).

    Yields:
        Cells in no order: all of them if there is room, else those of a part of the rows.
    """
    length, groups, _ = bounds.query.shape
    longest = int((limits - torch.arange(length)).amax())
    capacity = max(CAPACITY, groups * longest)  # as many as one row can have
    bounds = Bounds(*(tensor.contiguous() for tensor in bounds))
    limits = limits.to(bounds.query.device, non_blocking=True)
    parts = [(0, length)]
    while parts:
        start, stop = parts.pop()
        cells, count = _launch(bounds, limits, start, stop, longest, capacity)
        found = int(count)
        if found > capacity:
            middle = (start + stop) // 2
            parts += [(start, middle), (middle, stop)]
        else:
            yield Cells(*cells[:, :found].long())


def compiles(device: torch.device) -> bool:
    """Say whether Triton can compile for a device; where it cannot, why is logged."""
    vectors = torch.zeros(1, 1, 64, device=device)
    bounds = Bounds(vectors, vectors, vectors[..., 0], vectors[..., 0])
    try:
        _launch(bounds, torch.ones(1, dtype=torch.int64, device=device), 0, 1, 1, CAPACITY)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        logger.warning(
            "to decode on the GPU Triton needs a C compiler, Python's headers and a folder that it may write to "
            "(TRITON_CACHE_DIR), and could not compile; torch decodes instead, which is slower",
            exc_info=True,
        )
        return False
    return True


def _launch(
    bounds: Bounds, limits: Tensor, start: int, stop: int, longest: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """Search the rows from `start` to `stop - 1` without waiting; no limit lies more than `longest` past its row.

    Returns:
        Group, first and last token of each cell, shape (3, capacity), and how many there are, with those that did not
        fit, shape (1,).
    """
    _, groups, head_size = bounds.query.shape
    cells = torch.empty(3, capacity, dtype=torch.int32, device=limits.device)
    count = torch.zeros(1, dtype=torch.int64, device=limits.device)
    grid = (triton.cdiv(stop - start, TILE), triton.cdiv(longest + TILE, TILE), groups)
    arguments = (*bounds, limits, cells, count, start, stop, capacity)
    with torch.cuda.device_of(limits):
        _search[grid](*arguments, HEAD_SIZE=head_size, TILE=TILE, CHANNELS=CHANNELS, num_warps=WARPS)
    return cells, count


@triton.jit(do_not_specialize=["first_row", "stop_row", "capacity"])  # type: ignore[untyped-decorator]  # no types
def _search(  # type: ignore[no-untyped-def]  # what a kernel takes are types of Triton's own
    query,
    key,
    greatest_end,
    floor,
    limits,
    cells,
    count,
    first_row,
    stop_row,
    capacity,
    HEAD_SIZE: tl.constexpr,  # noqa: N803  # Triton writes constants of a kernel so
    TILE: tl.constexpr,  # noqa: N803  # as above
    CHANNELS: tl.constexpr,  # noqa: N803  # as above
):
    """Append what passes in one tile to the cells.

    The grid: tiles of rows from `first_row`, tiles of columns from the diagonal, groups. Tensors are contiguous.
    """
    start = first_row + tl.program_id(0) * TILE
    left = start + tl.program_id(1) * TILE
    group, groups = tl.program_id(2), tl.num_programs(2)
    row, column = start + tl.arange(0, TILE), left + tl.arange(0, TILE)
    is_row = row < stop_row
    limit = tl.load(limits + row, mask=is_row, other=0)
    furthest = tl.max(limit, axis=0)
    if left >= furthest:
        return
    is_column = column < furthest
    row_place, column_place = row.to(tl.int64) * groups + group, column.to(tl.int64) * groups + group
    product = tl.zeros((TILE, TILE), tl.float32)
    for channels_before in range(0, HEAD_SIZE, CHANNELS):
        channel = channels_before + tl.arange(0, CHANNELS)
        is_channel = channel < HEAD_SIZE
        starts = tl.load(
            query + row_place[:, None] * HEAD_SIZE + channel[None, :],
            mask=is_row[:, None] & is_channel[None, :],
            other=0.0,
        )
        ends = tl.load(
            key + column_place[None, :] * HEAD_SIZE + channel[:, None],
            mask=is_column[None, :] & is_channel[:, None],
            other=0.0,
        )
        product = tl.dot(starts, ends, product)  # in TF32 where the GPU multiplies in it: MARGIN covers that
    bound = product + tl.load(greatest_end + column_place, mask=is_column, other=0.0)[None, :]
    least = tl.load(floor + row_place, mask=is_row, other=float("inf"))[:, None]
    inside = (column[None, :] >= row[:, None]) & (column[None, :] < limit[:, None])
    hot = (inside & (bound > least)).to(tl.int32)
    found = tl.sum(hot)  # not from the sums of the columns: with those Triton 3.6 and 3.7 fail to compile for Blackwell
    if found > 0:
        before_tile = tl.minimum(tl.atomic_add(count, found.to(tl.int64)), capacity).to(tl.int32)
        of_column = tl.sum(hot, axis=0)
        before_column = before_tile + tl.cumsum(of_column, axis=0) - of_column
        place = before_column[None, :] + tl.cumsum(hot, axis=0) - 1
        fits = (hot > 0) & (place < capacity)
        tl.store(cells + place, group, mask=fits)
        tl.store(cells + capacity + place, tl.broadcast_to(row[:, None], (TILE, TILE)), mask=fits)
        tl.store(cells + 2 * capacity + place, tl.broadcast_to(column[None, :], (TILE, TILE)), mask=fits)
