"""Our spans against transformers' token classification: same encoder, data, windows, epochs, rates, batches.

    python benchmarks/token_classification.py --encoder ENCODER --train wnut17.train.jsonl.gz \
        --dev wnut17.dev.jsonl.gz --test wnut17.test.jsonl.gz --output runs/wnut17
    python benchmarks/token_classification.py --vocab bert-base-chinese-vocab.txt --layers 4 --hidden 256 ...

The baseline is AutoModelForTokenClassification with BIO tags on every token, trained by the Trainer with the same
rates, warm-up and decay as ours. A token that several windows hold takes its tag from the one in which it lies furthest
from the edge, and an I that continues nothing begins an entity. Both keep the epoch of the best F1 on dev and are
scored strictly, in characters, over the whole corpus. For flat corpora only: tags cannot express entities that overlap.
With --vocab both start from one and the same encoder of random weights.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from gpner.checkpoint import load_tokenizer
from gpner.decoding import Span
from gpner.errors import DataError
from gpner.evaluation import Evaluation, evaluate, evaluate_extractor
from gpner.examples import Example, labels_of, read_corpus
from gpner.extractor import Extractor, choose_device, inference_dtype
from gpner.pretraining.model import n_token_ids
from gpner.pretraining.vocabulary import load_vocabulary
from gpner.tokenization import TextTokenizer, TokenizedText, align, to_entities, windows_holding
from gpner.training import train
from gpner.training_options import TrainingOptions

OUTSIDE = 0
IGNORED = -100
RATES = ("precision", "recall", "f1")


class TaggedCorpus:
    """Examples as windows of BIO tags, and back: 0 is O, 2k + 1 begins an entity of label k, 2k + 2 continues it."""

    def __init__(self, examples: Sequence[Example], tokenizer: TextTokenizer, labels: Sequence[str]) -> None:
        self.examples = examples
        self.labels = labels
        self.documents = tokenizer([example.text for example in examples])
        self.features: list[dict[str, list[int]]] = []
        for example, document in zip(examples, self.documents, strict=True):
            self._add(document, self._tags(example, document))

    def _tags(self, example: Example, document: TokenizedText) -> list[int]:
        ordered = sorted(example.entities)
        if any(right[0] < left[1] for left, right in pairwise(ordered)):
            raise DataError(f"entities must not overlap to be written as BIO tags, in example {example.id!r} they do")
        tags = [OUTSIDE] * document.n_tokens
        for label, first, last in align(document, ordered)[0]:
            begin = 2 * self.labels.index(label) + 1
            tags[first : last + 1] = [begin] + [begin + 1] * (last - first)
        return tags

    def _add(self, document: TokenizedText, tags: list[int]) -> None:
        for window in document.windows:
            padded = [IGNORED] * len(window.token_ids)
            padded[window.prefix : window.prefix + window.n_content] = tags[window.first_token : window.last_token + 1]
            self.features.append(
                {"input_ids": window.token_ids, "attention_mask": [1] * len(window.token_ids), "labels": padded}
            )

    def evaluate(self, predictions: Any) -> Evaluation:
        """Score the tags predicted for each window, special tokens and padding included."""
        of_windows = iter(predictions)
        found = []
        for document in self.documents:
            tags = self._merge(document, [next(of_windows) for _ in document.windows])
            entities = to_entities(document, spans_of_tags(tags), self.labels)
            found.append([(entity.start, entity.end, entity.label) for entity in entities])
        return evaluate([example.entities for example in self.examples], found)

    def _merge(self, document: TokenizedText, predictions: Sequence[Any]) -> list[int]:
        tags = []
        for token in range(document.n_tokens):
            best = max(
                (document.windows[index] for index in windows_holding(document.windows, token, token)),
                key=lambda window: min(token - window.first_token, window.last_token - token),
            )
            of_best = predictions[document.windows.index(best)]
            tags.append(int(of_best[best.prefix + token - best.first_token]))
        return tags


def spans_of_tags(tags: Sequence[int]) -> list[Span]:
    """Entities of a row of tags; an I after anything but its own label begins one."""
    spans: list[Span] = []
    previous = OUTSIDE
    for token, tag in enumerate(tags):
        label = (tag - 1) // 2
        if tag != OUTSIDE and tag % 2 == 0 and previous in (tag - 1, tag):
            spans[-1] = spans[-1]._replace(last_token=token)
        elif tag != OUTSIDE:
            spans.append(Span(label=label, first_token=token, last_token=token, logit=0.0))
        previous = tag
    return spans


def train_baseline(options: TrainingOptions, test: Sequence[Example]) -> dict[str, Any]:
    """Fine-tune a tagger; scores of its best epoch."""
    set_seed(options.seed)
    tokenizer = load_tokenizer(options.encoder)
    windows = TextTokenizer(tokenizer, context=options.context, stride=options.context // 8)
    examples, dev = (read_corpus(path).examples for path in (options.train, options.dev))
    labels = labels_of(examples)
    corpora = [TaggedCorpus(part, windows, labels) for part in (examples, dev, test)]
    model = AutoModelForTokenClassification.from_pretrained(
        options.encoder, num_labels=2 * len(labels) + 1, dtype=torch.float32
    )
    trainer = Trainer(
        model=model,
        args=baseline_arguments(options),
        train_dataset=corpora[0].features,
        eval_dataset=corpora[1].features,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        optimizers=(optimizer(model, options), None),
        compute_metrics=lambda outcome: {"f1": corpora[1].evaluate(outcome.predictions).micro.f1},
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(dim=-1),
    )
    seconds = trainer.train().metrics["train_runtime"]
    trainer.compute_metrics = None
    scores = [corpus.evaluate(trainer.predict(corpus.features).predictions) for corpus in corpora[1:]]
    return row(*scores, seconds)


def baseline_arguments(options: TrainingOptions) -> TrainingArguments:
    device = choose_device("auto")
    return TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        warmup_steps=options.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=options.max_gradient_norm,
        bf16=inference_dtype(device) is torch.bfloat16,
        use_cpu=device.type == "cpu",
        seed=options.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=device.type == "cuda",
    )


def optimizer(model: torch.nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW with the classifier at the head's rate, and decay of matrices only, as ours."""
    groups: dict[tuple[bool, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("classifier."), parameter.dim() > 1), []).append(parameter)
    rates = {True: options.head_learning_rate, False: options.encoder_learning_rate}
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[head], "weight_decay": options.weight_decay if decayed else 0.0}
            for (head, decayed), parameters in groups.items()
        ],
        fused=True,
    )


def train_ours(options: TrainingOptions, test: Sequence[Example]) -> dict[str, Any]:
    report = train(options)
    extractor = Extractor.from_pretrained(options.output)
    return row(report.dev, evaluate_extractor(extractor, test), report.seconds)


def row(dev: Evaluation, test: Evaluation, seconds: float) -> dict[str, Any]:
    scores = {
        part: {name: round(getattr(evaluation.micro, name), 4) for name in RATES}
        for part, evaluation in (("dev", dev), ("test", test))
    }
    return {**scores, "seconds": round(seconds)}


def write_random_encoder(options: argparse.Namespace) -> Path:
    """A BERT of random weights over an existing vocabulary."""
    tokenizer: PreTrainedTokenizerFast = load_vocabulary(str(options.vocab))
    torch.manual_seed(options.seed)
    config = BertConfig(
        vocab_size=n_token_ids(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        max_position_embeddings=max(512, options.context),
        pad_token_id=tokenizer.pad_token_id,
    )
    folder: Path = options.output / "encoder"
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--encoder", help="local folder or hub name of the encoder that both start from")
    start.add_argument("--vocab", type=Path, help="vocab.txt; both start from a BERT of random weights over it")
    parser.add_argument("--layers", type=int, default=4, help="with --vocab")
    parser.add_argument("--hidden", type=int, default=256, help="with --vocab")
    for name in ("train", "dev", "test", "output"):
        parser.add_argument(f"--{name}", type=Path, required=name != "test", help="default: dev" * (name == "test"))
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="of the encoder, in both")
    parser.add_argument("--head-learning-rate", type=float, default=1e-3, help="of our head")
    parser.add_argument(
        "--classifier-learning-rate", type=float, help="of the baseline's; that of our head if not given"
    )
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    same = ("train", "dev", "epochs", "batch_size", "context", "seed")
    options = TrainingOptions(
        encoder=str(write_random_encoder(arguments) if arguments.vocab else arguments.encoder),
        output=arguments.output / "ours",
        encoder_learning_rate=arguments.learning_rate,
        head_learning_rate=arguments.head_learning_rate,
        **{name: getattr(arguments, name) for name in same},
    )
    rate = arguments.classifier_learning_rate or options.head_learning_rate
    baseline = replace(options, output=arguments.output / "baseline", head_learning_rate=rate)
    test = read_corpus(arguments.test or arguments.dev).examples
    scores = {"token classification": train_baseline(baseline, test), "gpner": train_ours(options, test)}
    print(json.dumps(scores, indent=2))
    (arguments.output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    table = Table("", "dev P / R / F1", "test P / R / F1", "seconds")
    for name, of_run in scores.items():
        cells = [" / ".join(f"{of_run[part][rate]:.3f}" for rate in RATES) for part in ("dev", "test")]
        table.add_row(name, *cells, str(of_run["seconds"]))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
