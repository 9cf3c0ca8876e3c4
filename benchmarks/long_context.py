"""Whole documents against overlapping windows of 512 tokens: the table of docs/training.md.

    python benchmarks/long_context.py ENCODER litbank.jsonl.gz runs/long-context --epochs 3 --seeds 0 1 2

Every variant is the same encoder and head with the same rates and as many epochs; what differs is how far it reads and
where its positions past 512 come from. A run that is already there is taken as it is, so that the table can be made in
several sittings. The best epoch is chosen on dev; test is looked at once.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from split import split

from gpner.checkpoint import load_tokenizer
from gpner.evaluation import evaluate_extractor
from gpner.examples import read_corpus
from gpner.extractor import Extractor
from gpner.model import load_encoder
from gpner.positions import extend_encoder
from gpner.training import train
from gpner.training_options import TrainingOptions

WINDOW = 512
# Of each variant how the encoder is extended (not at all: overlapping windows of 512), and options of its training.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "windows of 512": ({}, {"context": WINDOW, "batch_size": 4}),
    "first": ({"anchor": "first"}, {"batch_size": 1}),
    "mean": ({"anchor": "mean"}, {"batch_size": 1}),
    "random": ({"method": "random"}, {"batch_size": 1}),
    "mean, alpha 0.1": ({"anchor": "mean", "alpha": 0.1}, {"batch_size": 1}),
    "attention window 128": ({"method": "tiled", "attention_window": 128}, {"batch_size": 1}),
}


def main() -> None:
    arguments = parse()
    split(arguments.corpus, arguments.output / "data")
    for name in arguments.variants:
        for context in arguments.contexts if VARIANTS[name][0] else [WINDOW]:
            for seed in arguments.seeds:
                run(name, context, seed, arguments)
    show(list(read_rows(arguments.output)))


def run(name: str, context: int, seed: int, arguments: argparse.Namespace) -> None:
    """Train one variant and score it on test; leaves `row.json` in the run's folder."""
    extension, recipe = VARIANTS[name]
    folder = arguments.output / f"{name.replace(' ', '-').replace(',', '')}-{context}-{arguments.epochs}-{seed}"
    if (folder / "row.json").exists():
        return
    data = arguments.output / "data"
    options = TrainingOptions(
        encoder=extended(arguments.encoder, extension, context, arguments.output / "encoders")
        if extension
        else arguments.encoder,
        train=data / "train.jsonl",
        dev=data / "dev.jsonl",
        output=folder,
        epochs=arguments.epochs,
        encoder_learning_rate=arguments.learning_rate,
        head_learning_rate=arguments.head_learning_rate,
        max_entity_tokens=128,
        seed=seed,
        resume=True,
        **{"context": context, **recipe},
    )
    report = train(options)
    test = evaluate_extractor(Extractor.from_pretrained(folder), read_corpus(data / "test.jsonl").examples)
    row = {
        "variant": name,
        "context": context,
        "epochs": arguments.epochs,
        "seed": seed,
        "dev": report.dev.micro.f1,
        "test": test.micro.f1,
        "seconds": report.seconds,
    }
    (folder / "row.json").write_text(json.dumps(row) + "\n", encoding="utf-8")


def extended(source: str, extension: dict[str, Any], context: int, folder: Path) -> str:
    """Lengthen the encoder's positions; returns where it lies."""
    target = folder / "-".join([*(f"{key}-{value}" for key, value in extension.items()), str(context)])
    if not target.exists():
        encoder = load_encoder(source)
        extend_encoder(encoder, context, **extension)
        encoder.save_pretrained(target)
        load_tokenizer(source).save_pretrained(target)
    return str(target)


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*/row.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line for every variant: mean and range of F1 over seeds, mean of the minutes."""
    table = Table("variant", "context", "epochs", "seeds", "dev F1", "test F1", "minutes")
    for key in dict.fromkeys((row["variant"], row["context"], row["epochs"]) for row in rows):
        same = [row for row in rows if (row["variant"], row["context"], row["epochs"]) == key]
        minutes = statistics.mean(row["seconds"] for row in same) / 60
        scores = [spread([row[part] for row in same]) for part in ("dev", "test")]
        table.add_row(*map(str, key), str(len(same)), *scores, f"{minutes:.0f}")
    Console().print(table)


def spread(figures: list[float]) -> str:
    return f"{statistics.mean(figures):.3f} ({min(figures):.3f}-{max(figures):.3f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="folder of the encoder, with 512 positions")
    parser.add_argument("corpus", type=Path, help="litbank.jsonl.gz")
    parser.add_argument("output", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--contexts", nargs="+", type=int, default=[4096], help="of the extended encoders")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--head-learning-rate", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
