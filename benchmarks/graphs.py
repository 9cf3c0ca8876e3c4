"""From how many tokens on a CUDA graph gains nothing: forwards of packs of every size that has one, with and without.

    python benchmarks/graphs.py FOLDER

FOLDER holds one of our models. Both ways take turns over the same packs, of one document and of as many as a graph
takes; the table has medians of milliseconds, from token ids on the host to factors on the GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import page
from engines import load_ours
from rich.console import Console

if TYPE_CHECKING:
    from gpner.graphs import GraphedForward
    from gpner.model import GlobalPointerForEntities

REPEATS = 50


def milliseconds(forward: Callable[[], object]) -> float:
    """Of one forward, the GPU idle before it and done after it."""
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    forward()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def row(size: int, documents: int, model: "GlobalPointerForEntities", graphed: "GraphedForward") -> list[str]:
    """Medians of both ways over one pack."""
    import torch

    lengths = [size // documents] * documents
    ids = torch.arange(sum(lengths)) % model.encoder.config.vocab_size
    ways = (lambda: model(ids.pin_memory().cuda(non_blocking=True), lengths), lambda: graphed(ids, lengths))
    with torch.inference_mode():
        taken = [[milliseconds(way) for way in ways] for _ in range(REPEATS)]
    plain, replayed = (statistics.median(of_way) for of_way in zip(*taken, strict=True))
    return [f"{size:,}", str(documents), f"{plain:.2f}", f"{replayed:.2f}", f"{plain / replayed:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    model = load_ours(parser.parse_args().model, "cuda").model
    from gpner.graphs import MOST_DOCUMENTS, SIZES, GraphedForward

    graphed = GraphedForward(model)
    packs = [(size, n) for size in SIZES for n in (1, MOST_DOCUMENTS) if size // n <= model.config.context]
    rows = [row(size, documents, model, graphed) for size, documents in packs]
    columns = ("tokens", "documents", "forward (ms)", "graph (ms)", "times as fast")
    Console().print("\n".join(page.table(columns, rows)), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
