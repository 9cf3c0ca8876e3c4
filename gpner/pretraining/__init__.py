"""Continued masked-language modelling, packed, for long contexts; from scratch too.

What comes out is an ordinary folder of a transformers encoder with its pre-training head: `gpner train --encoder` and
`gpner extend` take it as it is.
"""

import json
import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainingArguments, set_seed

from gpner.checkpoint import load_tokenizer, save_checkpoint
from gpner.curves import draw_curves, draw_perplexity
from gpner.errors import CheckpointError, DataError
from gpner.model import load_encoder_config
from gpner.pretraining.card import write_encoder_card
from gpner.pretraining.data import MaskedPacks, TextWindow, cut_windows
from gpner.pretraining.model import check_context, load_masked_model, n_token_ids, new_masked_model
from gpner.pretraining.texts import TextDocument, Texts, hold_out, read_texts
from gpner.pretraining.trainer import MaskedTrainer
from gpner.pretraining.vocabulary import load_vocabulary, train_vocabulary
from gpner.pretraining_options import PretrainingOptions
from gpner.process_group import leave_group
from gpner.progress import run_log, watchers
from gpner.run_folder import METRICS, KeepCheckpoints, RunFolder, run_settings
from gpner.trainer_setup import new_arguments, recompute_states, skip_finished_training

logger = logging.getLogger(__name__)

# Seed of the masks of evaluations: one for all runs, so that their figures compare.
EVALUATION_SEED = 0
# What is shown of an evaluation while training.
SHOWN = {"eval_perplexity": "perplexity {:.2f}"}


@dataclass(frozen=True)
class PretrainingReport:
    """What a finished run has to say.

    Attributes:
        before: Loss and perplexity of the held-out texts before training, as `MaskedTrainer.evaluate` names them.
        history: The same after every epoch; the last entry is that of the saved encoder.
        data: Counts of what was read: documents, windows, tokens, documents that were cut, blank lines, other files
            of the folder; windows too short for a pair.
        new_weights: Weights of the head that the encoder did not bring, which therefore started anew.
        seconds: Duration of the training, since its last start.
        is_main: Whether this process is the one that writes and speaks, where several train together.
    """

    before: dict[str, float]
    history: list[dict[str, float]]
    data: dict[str, dict[str, int]]
    new_weights: list[str]
    seconds: float
    is_main: bool


def pretrain(options: PretrainingOptions) -> PretrainingReport:
    """Train an encoder to fill in hidden words, and leave it in the output folder.

    Under `torchrun` every process calls this; each trains on its share of the packs, and the first one writes.

    Raises:
        DataError: If a file cannot be read, or holds too little text.
        CheckpointError: If the encoder or the tokenizer cannot be loaded.
        EncoderError: If the encoder cannot run packed, or not with the chosen objective.
        ConfigError: If an option is out of range, or the output folder holds something else.
        TrainingError: If the loss is no number any more, or a checkpoint cannot be written.
    """
    load_encoder_config(options.encoder or str(options.config))  # found wrong before all the texts are read
    documents, left_out = _read(options)
    folder = RunFolder(options.output)
    arguments = _arguments(options)
    with folder.saving(), ExitStack() as stack:
        if arguments.process_index == 0:
            contents = {name: [document.sequences for document in texts] for name, texts in documents.items()}
            folder.claim(run_settings(options, contents, arguments.world_size), resume=options.resume)
            stack.enter_context(run_log(options.output / "training.log"))
        with arguments.main_process_first():
            tokenizer = _tokenizer(options, documents["train"], folder.checkpoints / "tokenizer")
        return _run(options, documents, left_out, tokenizer, arguments, folder)


def _run(
    options: PretrainingOptions,
    documents: dict[str, tuple[TextDocument, ...]],
    left_out: dict[str, dict[str, int]],
    tokenizer: PreTrainedTokenizerFast,
    arguments: TrainingArguments,
    folder: RunFolder,
) -> PretrainingReport:
    set_seed(options.seed)
    model, new_weights = _model(options, tokenizer)
    check_context(model, options.context)
    if options.gradient_checkpointing:
        recompute_states(model)
    packs, data = {}, {}
    for name, texts in documents.items():
        cut = cut_windows(texts, tokenizer, options.content_tokens)
        windows = _usable(cut, options)
        if not windows:
            use = "learn from" if name == "train" else "evaluate on"
            raise DataError(f"texts to {use} must hold at least one token, they hold none; give other texts")
        packs[name] = _packs(options, tokenizer, windows, options.seed if name == "train" else EVALUATION_SEED)
        data[name] = {**_counts(texts, cut), **left_out[name], "too short": len(cut) - len(windows)}
    trainer = MaskedTrainer(
        model=model,
        args=arguments,
        train_dataset=packs["train"],
        eval_dataset=packs["eval"],
        data_collator=_only,
    )
    before, seconds = _train(options, trainer, folder)
    report = PretrainingReport(
        before=before,
        history=[entry for entry in trainer.state.log_history if "eval_perplexity" in entry],
        data=data,
        new_weights=new_weights,
        seconds=seconds,
        is_main=arguments.process_index == 0,
    )
    if report.is_main:
        with folder.result() as aside:
            _save(aside, options, trainer, tokenizer, report)
    return report


def _train(options: PretrainingOptions, trainer: MaskedTrainer, folder: RunFolder) -> tuple[dict[str, float], float]:
    """Train to the end; returns what the evaluation before it said, and the seconds that it took."""
    checkpoint, state = folder.last_checkpoint(), folder.last_state()
    skip_finished_training(trainer.args, state)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(KeepCheckpoints(folder))
    with ExitStack() as stack:
        if trainer.args.process_index == 0:
            for callback in stack.enter_context(watchers(options.output, SHOWN, state.global_step)):
                trainer.add_callback(callback)
        before = trainer.evaluate()
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        leave_group(trainer)
    return before, outcome.metrics["train_runtime"]


def _only(packs: list[dict[str, Any]]) -> dict[str, Any]:
    (pack,) = packs
    return pack


def _read(options: PretrainingOptions) -> tuple[dict[str, tuple[TextDocument, ...]], dict[str, dict[str, int]]]:
    """The texts for training and evaluation, and how much of what was given is none."""
    train = read_texts(options.train, by=options.by)
    if options.eval is None:
        learnt, held_out = hold_out(train.documents, options.eval_share, options.seed)
        return {"train": learnt, "eval": held_out}, {"train": _left_out(train), "eval": _left_out()}
    held_out_texts = read_texts(options.eval, by=options.by)
    documents = {"train": train.documents, "eval": held_out_texts.documents}
    return documents, {"train": _left_out(train), "eval": _left_out(held_out_texts)}


def _left_out(*read: Texts) -> dict[str, int]:
    return {"blank": sum(texts.blank for texts in read), "other files": sum(texts.other_files for texts in read)}


def _tokenizer(
    options: PretrainingOptions, documents: tuple[TextDocument, ...], learnt: Path
) -> PreTrainedTokenizerFast:
    """Load the tokenizer, or learn it and keep it: learnt again, it would have other pieces."""
    if options.vocab_size is None:
        return load_tokenizer(options.encoder) if options.encoder else load_vocabulary(str(options.tokenizer))
    if not learnt.is_dir():
        aside = learnt.with_name("tokenizer.unfinished")
        train_vocabulary(documents, options.vocab_size).save_pretrained(aside)
        aside.rename(learnt)
    return load_tokenizer(learnt)


def _model(options: PretrainingOptions, tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, list[str]]:
    """The model, and those of its weights that start anew although the encoder is given."""
    if options.encoder is None:
        return new_masked_model(load_encoder_config(str(options.config)), tokenizer, options.sentence_objective), []
    model, new_weights = load_masked_model(options.encoder, options.sentence_objective)
    if n_token_ids(tokenizer) > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer must have at most the {model.config.vocab_size} tokens of the encoder, in "
            f"{options.encoder} it has {n_token_ids(tokenizer)}; give the encoder's own"
        )
    if new_weights:
        logger.info("%s has no trained head for this, it starts anew: %s", options.encoder, ", ".join(new_weights))
    return model, new_weights


def _usable(windows: list[TextWindow], options: PretrainingOptions) -> list[TextWindow]:
    if options.sentence_objective is None:
        return windows
    pairs = [window for window in windows if len(window.token_ids) > 1]
    if options.sentence_objective == "nsp" and len({window.document for window in pairs}) < 2:
        raise DataError("nsp must have at least two documents to take segments from, in train and in eval; give more")
    if not pairs:
        raise DataError("a pair needs two tokens of text, no text has them; give longer texts")
    return pairs


def _packs(
    options: PretrainingOptions, tokenizer: PreTrainedTokenizerFast, windows: list[TextWindow], seed: int
) -> MaskedPacks:
    return MaskedPacks(
        windows, tokenizer, objective=options.sentence_objective, max_tokens=options.batch_tokens, seed=seed
    )


def _counts(documents: tuple[TextDocument, ...], windows: list[TextWindow]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "sequences": sum(len(document.sequences) for document in documents),
        "windows": len(windows),
        "tokens": sum(len(window.token_ids) for window in windows),
    }


def _arguments(options: PretrainingOptions) -> TrainingArguments:
    return new_arguments(
        options,
        per_device_train_batch_size=1,  # one pack
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        save_strategy="steps",
        save_steps=options.save_steps,
    )


def _save(
    folder: Path,
    options: PretrainingOptions,
    trainer: MaskedTrainer,
    tokenizer: PreTrainedTokenizerFast,
    report: PretrainingReport,
) -> None:
    model = cast(PreTrainedModel, trainer.model)
    model.config.name_or_path = ""  # a folder of this machine means nothing to whoever gets the model
    tokenizer.model_max_length = options.context
    save_checkpoint(model, tokenizer, folder)
    draw_curves(folder / "curves.png", [{**report.before, "epoch": 0.0}, *trainer.state.log_history], draw_perplexity)
    content = {"options": asdict(options), **asdict(report), "after": report.history[-1]}
    del content["is_main"]
    write_encoder_card(folder, options, content)
    (folder / METRICS).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
