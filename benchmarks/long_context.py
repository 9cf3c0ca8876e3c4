"""Whole documents against overlapping windows of 512 tokens: the table of docs/training.md.

    python benchmarks/long_context.py ENCODER litbank.jsonl.gz runs/long-context --epochs 3 --seeds 0 1 2

Every variant is the same encoder and head with the same rates and as many epochs; what differs is how far it reads and
where its positions past 512 come from. A run that is already there is taken as it is, so that the table can be made in
several sittings. The best epoch is chosen on dev; test is looked at once. What was trained on windows of 1,024 or 2,048
under an attention window reads whole documents too, with the table begun anew, and is scored both ways.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from split import split

from gpner.checkpoint import load_checkpoint, load_tokenizer
from gpner.evaluation import evaluate_extractor
from gpner.examples import read_corpus
from gpner.extractor import Extractor, choose_device, place
from gpner.model import load_encoder
from gpner.positions import extend_encoder
from gpner.pretraining import pretrain
from gpner.pretraining_options import PretrainingOptions
from gpner.training import train
from gpner.training_options import TrainingOptions

WINDOW, WHOLE = 512, 4096
# Of a run that goes on from one before it.
FURTHER_EPOCHS, FURTHER_RATE, FURTHER_HEAD_RATE = 2, 1e-4, 5e-4
PRETRAINING_EPOCHS, PRETRAINING_RATE = 5, 2e-4


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How an encoder is made to read further, and how it is trained then.

    Attributes:
        extension: Options of `extend_encoder`; empty for overlapping windows of 512.
        training: Options of `TrainingOptions`.
        after: The variant whose trained model this one goes on from, head included.
        pretrained: Whether the encoder first learns to fill in hidden words of the training texts.
    """

    extension: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=lambda: {"batch_size": 1})
    after: str | None = None
    pretrained: bool = False


WINDOWS = {"context": WINDOW, "batch_size": 4}
NEAR = {"method": "tiled", "attention_window": 128}
VARIANTS = {
    "windows of 512": Variant(training=WINDOWS),
    "windows of 512, two a step": Variant(training=WINDOWS | {"batch_size": 2}),
    "windows of 512, one a step": Variant(training=WINDOWS | {"batch_size": 1}),
    "first": Variant(extension={"anchor": "first"}),
    "mean": Variant(extension={"anchor": "mean"}),
    "mean, four a step": Variant(extension={"anchor": "mean"}, training={"batch_size": 4}),
    "mean, alpha 0.1": Variant(extension={"anchor": "mean", "alpha": 0.1}),
    "random": Variant(extension={"method": "random"}),
    "attention window 128": Variant(extension=NEAR),
    "attention window 256": Variant(extension={"method": "tiled", "attention_window": 256}),
    "attention window 128, two a step": Variant(extension=NEAR, training={"batch_size": 2}),
    "windows of 512, pre-trained": Variant(training=WINDOWS, pretrained=True),
    "first, pre-trained": Variant(extension={"anchor": "first"}, pretrained=True),
    "mean, pre-trained": Variant(extension={"anchor": "mean"}, pretrained=True),
    "random, pre-trained": Variant(extension={"method": "random"}, pretrained=True),
    "windows of 512, then again": Variant(training=WINDOWS, after="windows of 512"),
    "windows of 512, then attention window 128": Variant(extension=NEAR, after="windows of 512"),
    "windows of 512, then attention window 256": Variant(
        extension={"method": "tiled", "attention_window": 256}, after="windows of 512"
    ),
    "windows of 512, then mean": Variant(extension={"anchor": "mean"}, after="windows of 512"),
}


def main() -> None:
    arguments = parse()
    split(arguments.corpus, arguments.output / "data")
    for name in arguments.variants:
        for context in arguments.contexts if VARIANTS[name].extension else [WINDOW]:
            for seed in arguments.seeds:
                run(name, context, seed, arguments)
    show(list(read_rows(arguments.output)))


def run(name: str, context: int, seed: int, arguments: argparse.Namespace) -> Path:
    """Train one variant and score it on test; leaves `row.json` in the run's folder, which it returns."""
    variant = VARIANTS[name]
    epochs, rate, head_rate = arguments.epochs, arguments.learning_rate, arguments.head_learning_rate
    if variant.after:
        epochs, rate, head_rate = FURTHER_EPOCHS, FURTHER_RATE, FURTHER_HEAD_RATE
    folder: Path = arguments.output / f"{hyphenated(name)}-{context}-{epochs}-{seed}"
    if (folder / "row.json").exists():
        return folder
    data = arguments.output / "data"
    options = TrainingOptions(
        encoder=str(encoder_for(name, context, seed, arguments)),
        train=data / "train.jsonl",
        dev=data / "dev.jsonl",
        output=folder,
        epochs=epochs,
        encoder_learning_rate=rate,
        head_learning_rate=head_rate,
        max_entity_tokens=128,
        seed=seed,
        resume=True,
        **{"context": context, **variant.training},
    )
    report = train(options)
    row = {
        "variant": name,
        "context": context,
        "epochs": epochs,
        "seed": seed,
        "dev": report.dev.micro.f1,
        "test": score(Extractor.from_pretrained(folder), data / "test.jsonl"),
        "seconds": report.seconds,
    }
    if "attention_window" in variant.extension and context < WHOLE:
        extractor = reading_whole(folder)
        row |= {f"{part}, whole": score(extractor, data / f"{part}.jsonl") for part in ("dev", "test")}
    (folder / "row.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def score(extractor: Extractor, corpus: Path) -> float:
    return evaluate_extractor(extractor, read_corpus(corpus).examples).micro.f1


def reading_whole(folder: Path) -> Extractor:
    """A trained model that reads more at once than it was trained on."""
    model, tokenizer = load_checkpoint(folder)
    extend_encoder(model.base_model, WHOLE, method="tiled")
    model.config.context = WHOLE
    place(model, choose_device("auto"))
    return Extractor(model, tokenizer, model_name=folder.name)


def encoder_for(name: str, context: int, seed: int, arguments: argparse.Namespace) -> Path:
    """Make the encoder that a variant starts from; returns where it lies."""
    variant = VARIANTS[name]
    folder: Path = arguments.output / "encoders" / f"{hyphenated(name)}-{context}-{seed}"
    if not folder.exists():
        before = run(variant.after, WINDOW, seed, arguments) if variant.after else None
        model = load_checkpoint(before)[0] if before else load_encoder(arguments.encoder)
        if variant.extension:
            extend_encoder(model.base_model, context, **variant.extension)
        model.save_pretrained(folder)
        load_tokenizer(arguments.encoder).save_pretrained(folder)
    return pretrained(folder, context, seed, arguments.output / "data") if variant.pretrained else folder


def pretrained(encoder: Path, context: int, seed: int, data: Path) -> Path:
    """Let an encoder learn to fill in hidden words of the training texts; returns where the result lies."""
    folder = encoder.with_name(f"{encoder.name}-read")
    if not (folder / "metrics.json").exists():
        options = PretrainingOptions(
            encoder=str(encoder),
            train=data / "train.jsonl",
            eval=data / "dev.jsonl",
            context=context,
            batch_tokens=4096,
            epochs=PRETRAINING_EPOCHS,
            learning_rate=PRETRAINING_RATE,
            output=folder,
            seed=seed,
            resume=True,
        )
        pretrain(options)
    return folder


def hyphenated(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*/row.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line for every variant: mean and range of F1 over seeds, mean of the minutes."""
    parts = ("dev", "test", "dev, whole", "test, whole")
    table = Table("variant", "context", "epochs", "seeds", *parts, "minutes")
    for key in dict.fromkeys((row["variant"], row["context"], row["epochs"]) for row in rows):
        same = [row for row in rows if (row["variant"], row["context"], row["epochs"]) == key]
        minutes = statistics.mean(row["seconds"] for row in same) / 60
        scores = [spread([row[part] for row in same if part in row]) for part in parts]
        table.add_row(*map(str, key), str(len(same)), *scores, f"{minutes:.0f}")
    Console().print(table)


def spread(figures: list[float]) -> str:
    return f"{statistics.mean(figures):.3f} ({min(figures):.3f}-{max(figures):.3f})" if figures else ""


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
