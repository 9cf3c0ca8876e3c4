"""Where the time of a run goes: from texts to entities, in one process.

    python benchmarks/where_time_goes.py FOLDER TEXTS [--device cuda]

FOLDER holds one of our models, TEXTS a list of texts as JSON; benchmarks/performance.py leaves both in its folder for
models and logs. The first table is timed without a profiler: tokenizing, forwards, decoding, and their shares. The
second is torch's profiler over another run: the operators that took most of the time themselves, on a GPU its kernels.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import page
from engines import load_ours
from rich.console import Console

if TYPE_CHECKING:
    from gpner.extractor import Extractor

OPERATORS = 20


def parts(extractor: "Extractor", texts: Sequence[str]) -> list[str]:
    """Seconds of the stages of one run, and their shares."""
    started = time.perf_counter()
    documents = extractor.tokenize(texts)
    tokenized = time.perf_counter()
    result = extractor.run(documents)
    total = time.perf_counter() - started
    seconds = {"tokenizing": tokenized - started, "forward": result.forward_seconds, "decoding": result.decode_seconds}
    seconds["the rest"] = total - sum(seconds.values())
    tokens = sum(extraction.tokens for extraction in result.extractions)
    rows = [[part, f"{spent:.3f}", f"{spent / total:.1%}"] for part, spent in seconds.items()]
    return [
        f"{tokens:,} tokens, {tokens / total:,.0f} a second from texts to entities.",
        "",
        *page.table(("part", "seconds", "share"), rows),
    ]


def operators(extractor: "Extractor", texts: Sequence[str]) -> str:
    """The profiler's table of one run."""
    from torch.profiler import ProfilerActivity, profile

    documents = extractor.tokenize(texts)
    on_gpu = extractor.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as seen:
        extractor.run(documents)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=order, row_limit=OPERATORS, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    extractor = load_ours(options.model, options.device)
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    extractor.extract(texts)  # first-time work is not what is asked for
    for text in ("\n".join(parts(extractor, texts)), operators(extractor, texts)):
        Console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
