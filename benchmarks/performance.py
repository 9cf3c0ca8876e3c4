"""Every engine over the same texts, interleaved, against what the machine can multiply: docs/performance.md.

    python benchmarks/performance.py RUNS --litbank litbank.jsonl.gz --laws laws.jsonl.gz \
        --wnut17 wnut17.test.jsonl.gz --encoder MINILM [--trained FOLDER] [--peers PYTHON] [--repeats 3] [--write]

Makes, in RUNS, models in the shape of BERT-base with random weights (contexts of 4,096 and 16,384, and a Chinese
vocabulary) and the texts of the workloads: the length mix of the design, cut from LitBank; real statutes; short texts;
one document of 16,384 tokens. Each engine runs in a process of its own (benchmarks/engines.py), one at a time, in turn.
Prints a table for every workload: tokens a second (median, and the spread of the runs), the share of the machine's best
matrix product, memory, and how far its entities agree with ours. --write puts tables and picture into docs/.

--peers is a Python in whose environment gliner, spacy, spacy-transformers and torch are installed; their versions of
transformers are older than ours.
"""

import argparse
import gzip
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import BertConfig, BertTokenizerFast, PreTrainedTokenizerFast

from gpner.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from gpner.config import GlobalPointerConfig
from gpner.model import GlobalPointerForEntities
from gpner.pretraining.model import n_token_ids
from gpner.tokenization import TextTokenizer

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
CONTEXT = 4_096
LONGEST = 16_384
LABELS = [f"L{number}" for number in range(10)]
LAWS_DOCUMENTS = 4
SHORT_DOCUMENTS = 320
# Rows, inner and outer size of the products that an encoder of this shape is made of.
PRODUCTS = ((4_096, 768, 768), (4_096, 768, 3_072), (4_096, 3_072, 768))
TRUTH = "gpner"
NAMES = {
    "gpner": "**gpner** (bf16)",
    "naive": "transformers fp32, batches of 32 as they come",
    "first-come": "transformers bf16, as they come, 16k padded budget",
    "by-length": "transformers bf16, sorted by length, 8k budget",
    "onnx": "ONNX Runtime fp32, sorted by length, 8k budget",
    "pipeline": "token-classification pipeline, sentences, bf16",
    "gliner": "GLiNER, same encoder, fp32",
    "spacy": "spaCy transformer pipeline, same encoder, fp32",
}
PEERS = ("gliner", "spacy")


@dataclass(frozen=True)
class Workload:
    """Texts, the model that reads them, and the engines that can.

    Attributes:
        name: As in the table.
        model: Folder.
        texts: Of every document.
        tokens: In all of them, special tokens apart.
        flops: Of the encoder over the windows of all of them.
        engines: By their names in benchmarks/engines.py.
    """

    name: str
    model: Path
    texts: list[str]
    tokens: int
    flops: int
    engines: tuple[str, ...]


@dataclass
class Measured:
    """What an engine did with a workload: seconds of each run, its peak of memory in bytes, what it found."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    entities: list[list[list[object]]] | None = None
    failure: str = ""


def length_mix(n_documents: int = 32, median: float = 297, percentile_95: float = 1972) -> list[int]:
    """Evenly spaced quantiles of the log-normal mix, in a fixed random order."""
    sigma = math.log(percentile_95 / median) / 1.645
    normal = statistics.NormalDist()
    lengths = [int(median * math.exp(sigma * normal.inv_cdf((k + 0.5) / n_documents))) for k in range(n_documents)]
    random.Random(0).shuffle(lengths)
    return lengths


def best_product() -> float:
    """Operations a second of the fastest bf16 product, weights laid out beforehand: the machine's peak in practice."""
    best = 0.0
    for rows, inner, outer in PRODUCTS:
        states = torch.randn(rows, inner).bfloat16()
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(outer, inner).bfloat16())
        for _ in range(12):
            started = time.perf_counter()
            torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "none")
            best = max(best, 2 * rows * inner * outer / (time.perf_counter() - started))
    return best


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast, context: int, sample: str) -> Path:
    """A model of BERT-base's shape with random weights, and a threshold that one span in ten thousand exceeds."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    encoder = BertConfig(vocab_size=n_token_ids(tokenizer), max_position_embeddings=context)
    config = GlobalPointerConfig(encoder_config=encoder, labels=LABELS, context=context, stride=context // 8)
    model = GlobalPointerForEntities(config).eval()
    with torch.inference_mode():
        model.head.projection.weight.normal_(std=0.1)  # a head with an opinion: at the usual size all spans score alike
        window = TextTokenizer(tokenizer, context=512, stride=64)([sample])[0].windows[0]
        factors = model(torch.tensor(window.token_ids), [len(window.token_ids)]).factors
        factors = factors.narrow(window.prefix, window.prefix + window.n_content)
        logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
        logits = logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
        upper = logits[torch.ones_like(logits, dtype=torch.bool).triu()]
        model.config.thresholds = [float(upper.topk(upper.numel() // 10_000).values[-1])] * len(LABELS)
    save_checkpoint(model, tokenizer, folder)
    model.encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


def read_texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def cut(texts: Sequence[str], lengths: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Texts of so many tokens each, special ones included, from one long text."""
    whole = "\n".join(texts)
    offsets = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False, verbose=False)["offset_mapping"]
    pieces, at = [], 0
    for length in lengths:
        content = length - 2
        pieces.append(whole[offsets[at][0] : offsets[at + content - 1][1]])
        at += content
    return pieces


def workload(name: str, model: Path, texts: list[str], engines: Sequence[str]) -> Workload:
    ours, tokenizer = load_checkpoint(model)
    documents = TextTokenizer(tokenizer, context=ours.config.context, stride=ours.config.stride)(texts)
    flops = ours.flops([len(window.token_ids) for document in documents for window in document.windows])
    return Workload(name, model, texts, sum(document.n_tokens for document in documents), flops, tuple(engines))


def make_workloads(options: argparse.Namespace) -> Iterator[Workload]:
    tokenizer = load_tokenizer(options.encoder)
    chinese = BertTokenizerFast(vocab=str(options.laws.with_name("bert-base-chinese-vocab.txt")))
    fiction, statutes, short = (list(read_texts(path)) for path in (options.litbank, options.laws, options.wnut17))
    base = make_model(options.runs / "bert-base", tokenizer, CONTEXT, fiction[0])
    everyone = [name for name in NAMES if options.peers or name not in PEERS]
    same_weights = ["gpner", "naive", "first-come", "by-length"]
    yield workload("length mix", base, cut(fiction, length_mix(), tokenizer), everyone)
    of_laws = make_model(options.runs / "bert-base-chinese", chinese, CONTEXT, statutes[0])
    yield workload("statutes", of_laws, statutes[:LAWS_DOCUMENTS], [*same_weights, "onnx", "pipeline"])
    yield workload("short texts", base, short[:SHORT_DOCUMENTS], everyone)
    longest = make_model(options.runs / "bert-base-long", tokenizer, LONGEST, fiction[0])
    yield workload("one long document", longest, cut(fiction, [LONGEST], tokenizer), ["gpner", "naive", "by-length"])
    if options.trained:
        yield workload(
            "length mix, trained MiniLM", options.trained, cut(fiction, length_mix(), tokenizer), same_weights
        )


@contextmanager
def started(engine: str, work: Workload, options: argparse.Namespace) -> Iterator["subprocess.Popen[str]"]:
    texts = options.runs / "texts.json"
    texts.write_text(json.dumps(work.texts), encoding="utf-8")
    python = options.peers if engine in PEERS else sys.executable
    command = [python, HERE / "engines.py", engine, "--model", work.model, "--texts", texts]
    log: IO[str]
    with (options.runs / f"{engine}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def run_once(child: "subprocess.Popen[str]", measured: Measured) -> None:
    if measured.failure:
        return
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


def measure(work: Workload, options: argparse.Namespace, progress: Progress) -> dict[str, Measured]:
    """Each engine in turn, the first round not counted; the naive way, which takes minutes, is run once only."""
    measured = {engine: Measured() for engine in work.engines}
    bar = progress.add_task(work.name, total=(1 + options.repeats) * len(work.engines))
    with ExitStack() as stack:
        children = {engine: stack.enter_context(started(engine, work, options)) for engine in work.engines}
        for repeat in range(1 + options.repeats):
            for engine, child in children.items():
                if engine != "naive" or repeat == 1:
                    run_once(child, measured[engine])
                if repeat == 0:
                    measured[engine].seconds.clear()
                progress.advance(bar)
    return measured


def agreement(found: Measured, truth: Measured) -> str:
    """F1 of what one found against the other."""
    if found.entities is None or truth.entities is None:
        return ""
    pairs = list(zip(found.entities, truth.entities, strict=True))
    common = sum(len(set(map(tuple, left)) & set(map(tuple, right))) for left, right in pairs)
    total = sum(len(left) + len(right) for left, right in pairs)
    return f"{2 * common / total:.3f}" if total else "1.000"


def table(work: Workload, measured: dict[str, Measured], peak: float) -> list[str]:
    lines = [
        f"**{work.name[0].upper()}{work.name[1:]}**: {len(work.texts):,} documents, {work.tokens:,} tokens, "
        f"{work.flops / work.tokens / 1e6:.0f} MFLOP a token.",
        "",
        "| engine | tokens/s | max / min | share of peak | times naive | memory, MB | agrees with ours |",
        "|---|---|---|---|---|---|---|",
    ]
    slow = statistics.median(measured["naive"].seconds or [math.nan]) if "naive" in measured else math.nan
    for engine, of_engine in measured.items():
        if of_engine.failure:
            lines.append(f"| {NAMES[engine]} | {of_engine.failure} | | | | | |")
            continue
        median = statistics.median(of_engine.seconds)
        share = f"{work.flops / median / peak:.0%}" if of_engine.entities is not None else ""
        lines.append(
            f"| {NAMES[engine]} | {work.tokens / median:,.0f} | {max(of_engine.seconds) / min(of_engine.seconds):.2f} "
            f"| {share} | {slow / median:.1f} | {of_engine.memory / 1e6:,.0f} "
            f"| {agreement(of_engine, measured[TRUTH]) if engine != TRUTH else ''} |"
        )
    return [*lines, ""]


def draw(results: Sequence[tuple[Workload, dict[str, Measured]]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(results), 1, figsize=(8, 2.2 * len(results)), layout="constrained")
    for axis, (work, measured) in zip([axes] if len(results) == 1 else axes, results, strict=True):
        speeds = {
            NAMES[engine].replace("*", ""): work.tokens / statistics.median(of_engine.seconds)
            for engine, of_engine in measured.items()
            if of_engine.seconds
        }
        bars = axis.barh(list(speeds), list(speeds.values()), color=["#205e8c", *["#b9b1a2"] * (len(speeds) - 1)])
        axis.bar_label(bars, fmt="{:,.0f}", padding=3)
        axis.invert_yaxis()
        axis.set_title(f"{work.name}: tokens a second", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.savefig(path, dpi=120)


def write(lines: Sequence[str]) -> None:
    """Replace what stands between the two marks of docs/performance.md."""
    path = DOCS / "performance.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- tables -->\n")
    _, _, after = rest.partition("<!-- end of tables -->\n")
    path.write_text("".join([before, "<!-- tables -->\n", "\n".join(lines), "<!-- end of tables -->\n", after]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder for models and logs")
    for name in ("litbank", "laws", "wnut17", "encoder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--trained", type=Path, help="a trained model of ours")
    parser.add_argument("--peers", help="a Python that has gliner and spaCy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of workloads")
    parser.add_argument("--write", action="store_true", help="put tables and picture into docs/")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    console = Console()
    peak = best_product()
    lines = [f"Best bf16 product of this machine: {peak / 1e9:,.0f} GFLOP/s on {torch.get_num_threads()} cores.", ""]
    results = []
    with Progress(console=console) as progress:
        for work in make_workloads(options):
            if options.only and work.name not in options.only:
                continue
            results.append((work, measure(work, options, progress)))
            peak = max(peak, best_product())
            lines += table(*results[-1], peak)
    console.print("\n".join(lines), markup=False)
    if options.write:
        write(lines)
        draw(results, DOCS / "images" / "performance.png")


if __name__ == "__main__":
    main()
