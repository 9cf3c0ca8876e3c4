"""Fine-tuning from files to a finished checkpoint: data, model, the Trainer, and what a run leaves in its folder.

Every evaluation runs through the `Extractor` on a copy of the model in the precision that it will be used in, so the
figures seen while training are the figures of the finished checkpoint.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from gpner.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from gpner.curves import draw_curves, draw_scores
from gpner.dataset import Feature, build_features
from gpner.errors import ConfigError, DataError
from gpner.evaluation import Evaluation
from gpner.examples import Corpus, Example, Problem, labels_of, read_corpus
from gpner.extractor import Extractor, place
from gpner.model import GlobalPointerForEntities, is_gpner_model
from gpner.process_group import leave_group
from gpner.progress import run_log, watchers
from gpner.run_folder import METRICS, KeepCheckpoints, RunFolder, run_settings
from gpner.tokenization import TextTokenizer
from gpner.trainer_setup import new_arguments, recompute_states, skip_finished_training
from gpner.training.model_card import write_model_card
from gpner.training.trainer import SpanTrainer, collate_step, finished_copy, score_on_dev, with_adapters
from gpner.training_options import TrainingOptions

logger = logging.getLogger(__name__)

# What two models must agree in for the one to take over the other's head.
HEAD_FIELDS = ("labels", "head", "bias_from", "head_size")
# What is shown of an epoch's scores while training.
SHOWN = {"eval_precision": "dev precision {:.3f}", "eval_recall": "recall {:.3f}", "eval_f1": "F1 {:.3f}"}


@dataclass(frozen=True)
class TrainingReport:
    """What a finished run has to say.

    Attributes:
        dev: Scores of the kept checkpoint on the dev file.
        history: Scores of every epoch, as the Trainer logged them.
        inexpressible: Gold spans of the training file that the tokens, the windows or the longest entity rule out, as
            (example id, start, end, label); they were left out of training and count as missed in every evaluation.
        problems: What was not taken as it stands in the two files.
        windows: Training windows.
        windowed: Training documents longer than the context, which were cut into several windows.
        seconds: Duration of the training, since its last start.
        is_main: Whether this process is the one that writes and speaks, where several train together.
    """

    dev: Evaluation
    history: list[dict[str, Any]]
    inexpressible: list[tuple[str, int, int, str]]
    problems: list[Problem]
    windows: int
    windowed: int
    seconds: float
    is_main: bool


def train(
    options: TrainingOptions, *, on_problems: Callable[[Sequence[Problem]], None] | None = None
) -> TrainingReport:
    """Train a model and leave the best epoch's checkpoint in the output folder.

    Under `torchrun` every process calls this; each trains on its share of a step, and the first one writes.

    Args:
        options: What to train, on what, how.
        on_problems: Told of what was not taken as it stands in the two files, before training begins; once, however
            many processes train.

    Raises:
        DataError: If a file cannot be read, has no entities, or dev has labels that training lacks.
        CheckpointError: If the encoder cannot be loaded.
        ConfigError: If an option is out of range, or the output folder holds something else.
        TrainingError: If the loss is no number any more, or a checkpoint cannot be written.
    """
    corpora = [read_corpus(path, format=options.format, strict=options.strict) for path in (options.train, options.dev)]
    labels = _check_labels(options, *(corpus.examples for corpus in corpora))
    set_seed(options.seed)
    model = _new_model(options, labels)
    arguments = _arguments(options)
    folder = RunFolder(options.output)
    with folder.saving(), ExitStack() as stack:
        if arguments.process_index == 0:
            contents = {name: corpus.examples for name, corpus in zip(("train", "dev"), corpora, strict=True)}
            folder.claim(run_settings(options, contents, arguments.world_size), resume=options.resume)
            stack.enter_context(run_log(options.output / "training.log"))
            if on_problems:
                on_problems([problem for corpus in corpora for problem in corpus.problems])
        _go_on_from(options.encoder, model)
        return _run(options, corpora, model, arguments, folder)


def _run(
    options: TrainingOptions,
    corpora: Sequence[Corpus],
    model: GlobalPointerForEntities,
    arguments: TrainingArguments,
    folder: RunFolder,
) -> TrainingReport:
    training, dev = (corpus.examples for corpus in corpora)
    tokenizer = load_tokenizer(options.encoder)
    windows = TextTokenizer(tokenizer, context=model.config.context, stride=model.config.stride)
    labels = model.config.labels
    features, inexpressible = build_features(training, windows, labels, max_entity_tokens=options.max_entity_tokens)
    if not features:
        raise DataError(f"{options.train}: training needs at least one token, no text has any; give other texts")
    if options.gradient_checkpointing:
        recompute_states(model.encoder)
    checkpoint = folder.last_checkpoint()
    with ExitStack() as stack:
        trainer = SpanTrainer(
            options=options,
            model=with_adapters(model, options.lora_rank) if options.lora_rank else model,
            args=arguments,
            train_dataset=cast(Dataset[Feature], features),
            eval_dataset=dev,
            data_collator=partial(
                collate_step, max_pack_tokens=options.max_pack_tokens, segment_tokens=options.loss_segment_tokens
            ),
            processing_class=tokenizer,
            callbacks=_callbacks(options, arguments, folder, stack),
        )
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        leave_group(trainer)
    report = partial(
        TrainingReport,
        history=[entry for entry in trainer.state.log_history if "eval_f1" in entry],
        inexpressible=inexpressible,
        problems=[problem for corpus in corpora for problem in corpus.problems],
        windows=len(features),
        windowed=sum(count > 1 for count in Counter(feature.example_id for feature in features).values()),
        seconds=outcome.metrics["train_runtime"],
        is_main=arguments.process_index == 0,
    )
    return _finish(options, trainer, folder, dev, report)


def _finish(
    options: TrainingOptions,
    trainer: SpanTrainer,
    folder: RunFolder,
    dev: Sequence[Example],
    report: Callable[..., TrainingReport],
) -> TrainingReport:
    """Score the best epoch's model and, in the main process, write it and all that there is to say of the run."""
    best = finished_copy(cast(torch.nn.Module, trainer.model))
    if trainer.args.process_index > 0:
        place(best, trainer.args.device)
        return report(dev=score_on_dev(Extractor(best, cast(Any, trainer.processing_class), model_name=""), dev))
    with folder.result() as aside:
        if isinstance(trainer.model, PeftModel):
            trainer.model.save_pretrained(str(aside / "adapter"))
            best.config.save_pretrained(aside / "adapter")
        save_checkpoint(best, cast(Any, trainer.processing_class), aside)
        finished = report(dev=score_on_dev(Extractor.from_pretrained(aside), dev))
        draw_curves(aside / "curves.png", trainer.state.log_history, draw_scores)
        _write_report(options, best.config.labels, finished, aside)
    logger.info("finished: dev F1 %.4f", finished.dev.micro.f1)
    return finished


def _check_labels(options: TrainingOptions, training: Sequence[Example], dev: Sequence[Example]) -> list[str]:
    labels = labels_of(training)
    for file, found in ((options.train, labels), (options.dev, labels_of(dev))):
        if not found:
            raise DataError(f"{file}: training needs at least one entity, the file has none; label some documents")
    unknown = sorted(set(labels_of(dev)) - set(labels))
    if unknown:
        raise DataError(
            f"{options.dev}: every label must occur in {options.train}, these do not: {', '.join(unknown)}; "
            "add examples of them or take them out"
        )
    return labels


def _new_model(options: TrainingOptions, labels: Sequence[str]) -> GlobalPointerForEntities:
    return GlobalPointerForEntities.from_encoder(
        options.encoder,
        labels=labels,
        context=options.context,
        stride=_default_stride(options) if options.stride is None else options.stride,
        head=options.head,
        bias_from=options.bias_from,
        head_size=options.head_size,
        max_entity_tokens=options.max_entity_tokens,
    )


def _go_on_from(source: str, model: GlobalPointerForEntities) -> None:
    """Copy the head of a trained model whose encoder this one has, if it is of the same form and labels."""
    if not is_gpner_model(source):
        return
    trained, _ = load_checkpoint(source)
    differing = [name for name in HEAD_FIELDS if getattr(trained.config, name) != getattr(model.config, name)]
    if differing:
        names = ", ".join(differing)
        logger.warning("%s was trained with other %s: its encoder is kept, its head is not", source, names)
    else:
        model.head.load_state_dict(trained.head.state_dict())
        logger.info("training goes on from the encoder and the head of %s", source)


def _default_stride(options: TrainingOptions) -> int:
    """An eighth of the context, and never less than the longest entity, so that some window holds each whole."""
    longest, most = options.max_entity_tokens or 0, options.context - 3
    if longest > max(most, 0):
        raise ConfigError(
            f"max_entity_tokens must be at most {most} for windows of {options.context} tokens to overlap by as many, "
            f"was: {longest}; lower it, raise --context or give --stride"
        )
    return max(options.context // 8, longest)


def _arguments(options: TrainingOptions) -> TrainingArguments:
    return new_arguments(
        options,
        # Packs bound the memory of a step of any size, so accumulating batches is nothing but a larger one.
        per_device_train_batch_size=options.batch_size * options.accumulation,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        label_names=["spans"],
    )


def _callbacks(
    options: TrainingOptions, arguments: TrainingArguments, folder: RunFolder, stack: ExitStack
) -> list[TrainerCallback]:
    """What else happens while training; the stack ends what must be ended."""
    state = folder.last_state()
    stale = epochs_since_best(state.log_history)
    callbacks: list[TrainerCallback] = [KeepCheckpoints(folder)]
    if options.patience:
        stopping = EarlyStoppingCallback(options.patience)
        stopping.early_stopping_patience_counter = stale
        callbacks.append(stopping)
    skip_finished_training(arguments, state, stopped=0 < options.patience <= stale)
    if arguments.process_index == 0:
        callbacks += stack.enter_context(watchers(options.output, SHOWN, state.global_step))
    return callbacks


def epochs_since_best(history: Sequence[dict[str, Any]]) -> int:
    """Count the epochs after the first one of the best F1, in what the Trainer logged."""
    scores = [entry["eval_f1"] for entry in history if "eval_f1" in entry]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _write_report(options: TrainingOptions, labels: Sequence[str], report: TrainingReport, folder: Path) -> None:
    content = {
        "options": asdict(options),
        "labels": list(labels),
        "dev": report.dev.to_dict(),
        "history": report.history,
        "inexpressible": report.inexpressible,
        "problems": [str(problem) for problem in report.problems],
        "windows": report.windows,
        "windowed": report.windowed,
        "seconds": report.seconds,
    }
    (folder / METRICS).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    write_model_card(folder, content, name=options.output.resolve().name)
