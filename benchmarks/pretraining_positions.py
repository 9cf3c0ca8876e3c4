"""What each way of lengthening a position table costs in perplexity, and what a little pre-training at length mends.

A small BERT is trained from scratch on Chinese statutes, first line by line, where it finds out sooner that neighbours
matter, then on whole documents at a context of 512. Its table is extended to 4,096 three ways, and each encoder is
trained further on whole documents. Held-out documents are scored before and after, below and from position 512 on:

    python benchmarks/pretraining_positions.py laws.jsonl.gz bert-base-chinese-vocab.txt runs/positions
"""

import argparse
import gzip
import json
import math
import random
import time
from collections import Counter
from pathlib import Path

from transformers import BertConfig

from gpner.checkpoint import load_tokenizer
from gpner.positions import extend_encoder
from gpner.pretraining import PretrainingReport, pretrain
from gpner.pretraining.data import cut_windows
from gpner.pretraining.model import encoder_of, load_with_head
from gpner.pretraining.texts import read_texts
from gpner.pretraining_options import PretrainingOptions

SHORT, LONG = 512, 4096
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
METHODS = {
    "hierarchical, anchor first": {"method": "hierarchical", "anchor": "first"},
    "hierarchical, anchor mean": {"method": "hierarchical", "anchor": "mean"},
    "random tail": {"method": "random"},
}
# Characters of the documents to read whole: one window of 4,096 and little more.
WHOLE_CHARACTERS = range(4200, 6000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("vocabulary")
    parser.add_argument("output", type=Path)
    parser.add_argument("--short-characters", type=int, default=3_000_000, help="read at a context of 512")
    parser.add_argument("--long-documents", type=int, default=36, help="read at a context of 4,096")
    parser.add_argument("--eval-documents", type=int, default=16)
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    files = write_splits(options)

    BertConfig(**SIZES, max_position_embeddings=SHORT).save_pretrained(options.output / "config")
    started = time.perf_counter()
    start = {"config": str(options.output / "config"), "tokenizer": options.vocabulary, "learning_rate": 1e-3}
    report = run(files["short"], files["eval"], options.output / "lines", SHORT, {"by": "line", **start})
    show("lines, after", report.history[-1])
    start = {"encoder": str(options.output / "lines"), "learning_rate": 5e-4}
    report = run(files["short"], files["eval"], options.output / "short", SHORT, start)
    show("context 512, before", report.before)
    show("context 512, after", report.history[-1])
    print(f"unigrams: {unigram_perplexity(files, options.output / 'short'):.1f}", flush=True)
    rows = {name: lengthen(name, settings, files, options.output) for name, settings in METHODS.items()}
    print("\n| extension to 4,096 | 0-511 before | after | 512-4,095 before | after |\n|---|---|---|---|---|")
    for name, row in rows.items():
        after = row.history[-1]
        figures = [of[f"eval_perplexity_{span}"] for span in ("short", "long") for of in (row.before, after)]
        print(f"| {name} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


def write_splits(options: argparse.Namespace) -> dict[str, Path]:
    with gzip.open(options.texts, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    random.Random(0).shuffle(texts)
    whole = [text for text in texts if len(text) in WHOLE_CHARACTERS]
    held_out = whole[: options.eval_documents]
    long = whole[options.eval_documents :][: options.long_documents]
    short: list[str] = []
    for text in texts:
        if text not in held_out and sum(map(len, short)) < options.short_characters:
            short.append(text)
    files = {}
    for name, some in (("short", short), ("long", long), ("eval", held_out)):
        files[name] = options.output / f"{name}.jsonl"
        files[name].write_text("\n".join(json.dumps({"text": text}) for text in some), encoding="utf-8")
        print(f"{name}: {len(some)} documents, {sum(map(len, some)):,} characters", flush=True)
    return files


def run(train: Path, held_out: Path, output: Path, context: int, settings: dict) -> PretrainingReport:
    # Small steps, many of them: that is what leaves the plateau of guessing by frequency alone.
    batch = {"context": context, "batch_tokens": max(context, 1024), "epochs": 1, "save_steps": 10_000}
    report = pretrain(PretrainingOptions(train=train, eval=held_out, output=output, **batch, **settings))
    tokens = report.data["train"]["tokens"]
    print(f"{output.name}: {tokens:,} tokens in {report.seconds:.0f} s", flush=True)
    return report


def lengthen(name: str, settings: dict, files: dict[str, Path], output: Path) -> PretrainingReport:
    folder = output / name.replace(", ", "-").replace(" ", "-")
    encoder, tokenizer = load_with_head(output / "short"), load_tokenizer(output / "short")
    extend_encoder(encoder_of(encoder), LONG, **settings)
    encoder.save_pretrained(folder / "extended")
    tokenizer.save_pretrained(folder / "extended")
    start = {"encoder": str(folder / "extended"), "learning_rate": 5e-4}
    report = run(files["long"], files["eval"], folder / "trained", LONG, start)
    show(f"{name}, before", report.before)
    show(f"{name}, after", report.history[-1])
    return report


def show(title: str, figures: dict[str, float]) -> None:
    print(title, {key: round(value, 2) for key, value in figures.items() if key.startswith("eval_")}, flush=True)


def unigram_perplexity(files: dict[str, Path], folder: Path) -> float:
    """Of the held-out tokens, by the frequencies of the others, each counted once more."""
    tokenizer = load_tokenizer(folder)
    counts: dict[str, Counter[int]] = {}
    for name in ("short", "eval"):
        windows = cut_windows(read_texts(files[name], by="document").documents, tokenizer, SHORT)
        counts[name] = Counter(token for window in windows for token in window.token_ids.tolist())
    total = counts["short"].total() + len(tokenizer)
    log_likelihood = sum(n * math.log((counts["short"][token] + 1) / total) for token, n in counts["eval"].items())
    return math.exp(-log_likelihood / counts["eval"].total())


if __name__ == "__main__":
    main()
