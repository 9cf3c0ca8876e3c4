"""Every engine over the same texts, interleaved, against what the machine can multiply: docs/performance.md.

    python benchmarks/performance.py RUNS --litbank litbank.jsonl.gz --laws laws.jsonl.gz \
        --wnut17 wnut17.test.jsonl.gz [--peers PYTHON] [--repeats 3] [--device cuda] [--write]

Prints a line for every run and a table for every workload (benchmarks/workloads.py): tokens a second (median, and the
spread of the runs), the share of the machine's best matrix product, memory, and how far an engine's entities agree with
ours. --write puts a table and its picture into docs/ as soon as they are there.

Each engine runs in a process of its own (benchmarks/engines.py), one at a time, in turn. The process is started anew in
every round, reads everything once uncounted and once counted, and ends: together the engines of a workload would need
more memory than most machines have, and what one leaves behind can neither help nor harm the next. So the spread also
holds what differs from process to process. The naive way, which takes minutes, is run once only, and unwarmed.

--peers is a Python in whose environment gliner, spacy, spacy-transformers and torch are installed; their versions of
transformers are older than ours.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import page
import torch
from rich.console import Console
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar
from workloads import WORKLOADS, Workload, add_arguments, make_workload

from gpner.peak import measure_peak_flops

HERE = Path(__file__).parent
# Rows, inner and outer size of the products that an encoder of this shape is made of.
PRODUCTS = ((4_096, 768, 768), (4_096, 768, 3_072), (4_096, 3_072, 768))
TRUTH = "gpner"
NAMES = {
    "gpner": "**gpner** (bf16)",
    "gpner-int8": "**gpner**, `--precision int8`",
    "gpner-compiled": "gpner, its encoder's layers compiled",
    "gpner-torch-decode": "gpner, decoding without Triton",
    "naive": "transformers fp32, batches of 32 as they come",
    "naive-bf16": "transformers bf16, batches of 32 as they come",
    "first-come": "transformers bf16, as they come, 16k padded budget",
    "by-length": "transformers bf16, sorted by length, 8k budget",
    "onnx": "ONNX Runtime fp32, sorted by length, 8k budget",
    "pipeline": "token-classification pipeline, sentences, bf16",
    "gliner": "GLiNER, same encoder, fp32",
    "spacy": "spaCy transformer pipeline, same encoder, fp32",
}
PEERS = ("gliner", "spacy")
COLUMNS = ("engine", "tokens/s", "max / min", "share of peak", "times naive", "memory, MB", "agrees with ours")


@dataclass
class Measured:
    """What an engine did with a workload: seconds of each run, its peak of memory in bytes, what it found."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    entities: list[list[list[object]]] | None = None
    failure: str = ""


def best_product(device: str) -> float:
    """Operations a second of the fastest bf16 product, weights laid out beforehand: the machine's peak in practice."""
    if device == "cuda":
        return measure_peak_flops(torch.device(device), torch.bfloat16)
    best = 0.0
    for rows, inner, outer in PRODUCTS:
        states = torch.randn(rows, inner).bfloat16()
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(outer, inner).bfloat16())
        for _ in range(12):
            started = time.perf_counter()
            torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "none")
            best = max(best, 2 * rows * inner * outer / (time.perf_counter() - started))
    return best


def describe_peak(peak: float, device: str) -> str:
    """A sentence about the machine."""
    place = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} cores"
    return f"Best bf16 product of this machine: {peak / 1e9:,.0f} GFLOP/s on {place}."


@contextmanager
def started(engine: str, work: Workload, options: argparse.Namespace) -> Iterator["subprocess.Popen[str]"]:
    """An engine in a process of its own; the texts stay behind in a file named after the workload."""
    texts = options.runs / f"{work.name.replace(' ', '-')}.json"
    texts.write_text(json.dumps(work.texts), encoding="utf-8")
    python = options.peers if engine in PEERS else sys.executable
    command = [python, HERE / "engines.py", engine, "--model", work.model, "--texts", texts, "--device", options.device]
    log: IO[str]
    with (options.runs / f"{engine}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def run_once(child: "subprocess.Popen[str]", measured: Measured) -> None:
    """Let an engine read its texts and note what it says of that, or that it died."""
    try:
        child.stdin.write("run\n")
        child.stdin.flush()
        answer = child.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        measured.failure = f"ended with {child.wait()}"
        return
    seconds, measured.memory, measured.entities = json.loads(answer)
    measured.seconds.append(seconds)


def run_in_new_process(engine: str, work: Workload, options: argparse.Namespace, measured: Measured) -> None:
    """One round of an engine: its first run, which makes everything ready, is not counted."""
    with started(engine, work, options) as child:
        if engine != "naive":
            run_once(child, Measured())
        run_once(child, measured)


def measure(work: Workload, options: argparse.Namespace, progress: Progress) -> dict[str, Measured]:
    """Each engine in turn, as often as asked for; what failed is not tried again."""
    measured = {engine: Measured() for engine in NAMES if _is_wanted(engine, work, options)}
    bar = progress.add_task(work.name, total=options.repeats * len(measured))
    for repeat in range(options.repeats):
        for engine, of_engine in measured.items():
            if not of_engine.failure and (engine != "naive" or repeat == 0):
                run_in_new_process(engine, work, options, of_engine)
                # At once, as a run that is cut off has no table.
                said = f"{work.name}, {engine}, round {repeat + 1}: {describe_last(of_engine, work)}"
                progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
            progress.advance(bar)
    return measured


def describe_last(measured: Measured, work: Workload) -> str:
    """What an engine made of its last round."""
    if measured.failure:
        return measured.failure
    seconds = measured.seconds[-1]
    return f"{seconds:.2f} s, {work.tokens / seconds:,.0f} tokens/s, {measured.memory / 1e6:,.0f} MB"


def _is_wanted(engine: str, work: Workload, options: argparse.Namespace) -> bool:
    if options.engines:
        return engine in options.engines
    return engine in work.engines and (engine not in PEERS or options.peers is not None)


def agreement(found: Measured, truth: Measured) -> str:
    """F1 of what one found against the other."""
    if found.entities is None or truth.entities is None:
        return ""
    pairs = list(zip(found.entities, truth.entities, strict=True))
    common = sum(len(set(map(tuple, left)) & set(map(tuple, right))) for left, right in pairs)
    total = sum(len(left) + len(right) for left, right in pairs)
    return f"{2 * common / total:.3f}" if total else "1.000"


def table(work: Workload, measured: dict[str, Measured], described_peak: str, peak: float) -> list[str]:
    """Workload and machine in a line, and what each engine made of it."""
    slow = statistics.median(measured["naive"].seconds or [math.nan]) if "naive" in measured else math.nan
    rows = [_row(engine, work, measured, peak, slow) for engine in measured]
    documents = "1 document" if len(work.texts) == 1 else f"{len(work.texts):,} documents"
    return [
        f"**{work.name[0].upper()}{work.name[1:]}**: {documents}, {work.tokens:,} tokens, "
        f"{work.flops / work.tokens / 1e6:.0f} MFLOP a token. {described_peak}",
        "",
        *page.table(COLUMNS, rows),
    ]


def _row(engine: str, work: Workload, measured: dict[str, Measured], peak: float, slow: float) -> list[str]:
    of_engine = measured[engine]
    if of_engine.failure:
        return [NAMES[engine], of_engine.failure, "", "", "", "", ""]
    median = statistics.median(of_engine.seconds)
    return [
        NAMES[engine],
        f"{work.tokens / median:,.0f}",
        f"{max(of_engine.seconds) / min(of_engine.seconds):.2f}" if len(of_engine.seconds) > 1 else "",
        f"{work.flops / median / peak:.0%}" if of_engine.entities is not None else "",
        f"{slow / median:.1f}",
        f"{of_engine.memory / 1e6:,.0f}",
        agreement(of_engine, measured.get(TRUTH, Measured())) if engine != TRUTH else "",
    ]


def draw(work: Workload, measured: dict[str, Measured]) -> str:
    """A bar for every engine; returns the line that shows the picture in docs/."""
    from matplotlib import pyplot

    speeds = {
        re.sub("[*`]", "", NAMES[engine]): work.tokens / statistics.median(of_engine.seconds)
        for engine, of_engine in measured.items()
        if of_engine.seconds
    }
    figure, axis = pyplot.subplots(figsize=(8, 0.6 + 0.3 * len(speeds)), layout="constrained")
    colors = ["#205e8c" if name.startswith("gpner") else "#b9b1a2" for name in speeds]
    bars = axis.barh(list(speeds), list(speeds.values()), color=colors)
    axis.bar_label(bars, fmt="{:,.0f}", padding=3)
    axis.invert_yaxis()
    axis.set_title(f"{work.name}: tokens a second", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    picture = f"images/{re.sub('[^a-z]+', '-', work.name.lower())}.png"
    figure.savefig(page.DOCS / picture, dpi=120)
    return f"![tokens a second by engine]({picture})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--laws", type=Path, help="laws.jsonl.gz; bert-base-chinese-vocab.txt lies beside it")
    parser.add_argument("--wnut17", type=Path, help="wnut17.test.jsonl.gz, or other short texts")
    parser.add_argument("--trained", type=Path, help="a trained model of ours; the demo's by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", type=int, default=1, help="so many times the documents, for a fast device")
    parser.add_argument("--peers", help="a Python that has gliner and spaCy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="names of workloads")
    parser.add_argument("--engines", nargs="+", choices=NAMES, help="those of each workload by default")
    parser.add_argument("--write", action="store_true", help="put tables and pictures into docs/ as they come")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    console = Console()
    peak = best_product(options.device)
    console.print(describe_peak(peak, options.device), markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console) as progress:
        for name in options.only:
            work = make_workload(name, options)
            measured = measure(work, options, progress)
            peak = max(peak, best_product(options.device))
            lines = table(work, measured, describe_peak(peak, options.device), peak)
            console.print("\n".join(lines), markup=False, soft_wrap=True)
            if options.write:
                page.write(name, [*lines, draw(work, measured)])


if __name__ == "__main__":
    main()
