"""Continued masked-language modelling, packed, for long contexts; from scratch too.

What comes out is an ordinary folder of a transformers encoder with its pre-training head: `gpner train --encoder` and
`gpner extend` take it as it is.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainingArguments, set_seed

from gpner.checkpoint import load_tokenizer
from gpner.errors import CheckpointError, DataError, EncoderError
from gpner.extractor import choose_device, inference_dtype
from gpner.model import load_encoder_config
from gpner.pretraining.card import write_encoder_card
from gpner.pretraining.data import MaskedPacks, TextWindow, cut_windows
from gpner.pretraining.model import check_context, load_masked_model, n_token_ids, new_masked_model
from gpner.pretraining.texts import TextDocument, hold_out, read_texts
from gpner.pretraining.trainer import MaskedTrainer
from gpner.pretraining.vocabulary import load_vocabulary, train_vocabulary
from gpner.pretraining_options import PretrainingOptions
from gpner.run_folder import METRICS, KeepCheckpoints, RunFolder

logger = logging.getLogger(__name__)

# Seed of the masks of evaluations: one for all runs, so that their figures compare.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class PretrainingReport:
    """What a finished run has to say.

    Attributes:
        before: Loss and perplexity of the held-out texts before training, as `MaskedTrainer.evaluate` names them.
        history: The same after every epoch; the last entry is that of the saved encoder.
        data: Counts of what was read: documents, windows, tokens, documents that were cut, blank lines; windows too
            short for a pair.
        seconds: Duration of the training.
    """

    before: dict[str, float]
    history: list[dict[str, float]]
    data: dict[str, dict[str, int]]
    seconds: float


def pretrain(options: PretrainingOptions) -> PretrainingReport:
    """Train an encoder to fill in hidden words, and leave it in the output folder.

    Raises:
        DataError: If a file cannot be read, or holds too little text.
        CheckpointError: If the encoder or the tokenizer cannot be loaded.
        EncoderError: If the encoder cannot run packed, or not with the chosen objective.
        ConfigError: If an option is out of range, or the output folder holds something else.
        TrainingError: If the loss is no number any more, or a checkpoint cannot be written.
    """
    documents, blank = _read(options)
    folder = RunFolder(options.output)
    arguments = _arguments(options)
    if arguments.process_index == 0:
        folder.claim(_settings(options, documents), resume=options.resume)
    with arguments.main_process_first():
        tokenizer = _tokenizer(options, documents["train"], folder.checkpoints / "tokenizer")
    set_seed(options.seed)
    model = _model(options, tokenizer)
    check_context(model, options.context)
    windows, data = {}, {}
    for name, texts in documents.items():
        cut = cut_windows(texts, tokenizer, options.content_tokens)
        windows[name] = _usable(cut, options)
        data[name] = {**_counts(texts, cut), "blank": blank[name], "too short": len(cut) - len(windows[name])}
    report = _train(options, arguments, folder, model, tokenizer, windows, data)
    if arguments.process_index == 0:
        with folder.saving(), folder.result() as result:
            _save(result, options, model, tokenizer, report)
    return report


def _train(
    options: PretrainingOptions,
    arguments: TrainingArguments,
    folder: RunFolder,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    windows: dict[str, list[TextWindow]],
    data: dict[str, dict[str, int]],
) -> PretrainingReport:
    if options.gradient_checkpointing:
        _recompute_states(model)
    packs = {
        name: MaskedPacks(
            some,
            tokenizer,
            objective=options.sentence_objective,
            max_tokens=options.batch_tokens,
            seed=options.seed if name == "train" else EVALUATION_SEED,
        )
        for name, some in windows.items()
    }
    trainer = MaskedTrainer(
        model=model, args=arguments, train_dataset=packs["train"], eval_dataset=packs["eval"], data_collator=_only
    )
    trainer.add_callback(KeepCheckpoints(folder))
    trainer.remove_callback(PrinterCallback)
    before = trainer.evaluate()
    checkpoint = folder.last_checkpoint()
    with folder.saving():
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    history = [entry for entry in trainer.state.log_history if "eval_perplexity" in entry]
    return PretrainingReport(before, history, data, outcome.metrics["train_runtime"])


def _only(packs: list[dict[str, Any]]) -> dict[str, Any]:
    (pack,) = packs
    return pack


def _read(options: PretrainingOptions) -> tuple[dict[str, tuple[TextDocument, ...]], dict[str, int]]:
    train = read_texts(options.train, by=options.by)
    if options.eval is None:
        learnt, held_out = hold_out(train.documents, options.eval_share, options.seed)
        return {"train": learnt, "eval": held_out}, {"train": train.blank, "eval": 0}
    held_out_texts = read_texts(options.eval, by=options.by)
    documents = {"train": train.documents, "eval": held_out_texts.documents}
    return documents, {"train": train.blank, "eval": held_out_texts.blank}


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


def _model(options: PretrainingOptions, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    if options.encoder is None:
        return new_masked_model(load_encoder_config(str(options.config)), tokenizer, options.sentence_objective)
    model = load_masked_model(options.encoder, options.sentence_objective)
    if n_token_ids(tokenizer) > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer must have at most the {model.config.vocab_size} tokens of the encoder, in "
            f"{options.encoder} it has {n_token_ids(tokenizer)}; give the encoder's own"
        )
    return model


def _usable(windows: list[TextWindow], options: PretrainingOptions) -> list[TextWindow]:
    if options.sentence_objective is None:
        return windows
    pairs = [window for window in windows if len(window.token_ids) > 1]
    if options.sentence_objective == "nsp" and len({window.document for window in pairs}) < 2:
        raise DataError("nsp must have at least two documents to take segments from, in train and in eval; give more")
    if not pairs:
        raise DataError("a pair needs two tokens of text, no text has them; give longer texts")
    return pairs


def _counts(documents: tuple[TextDocument, ...], windows: list[TextWindow]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "sequences": sum(len(document.sequences) for document in documents),
        "windows": len(windows),
        "tokens": sum(len(window.token_ids) for window in windows),
    }


def _settings(options: PretrainingOptions, documents: dict[str, tuple[TextDocument, ...]]) -> dict[str, Any]:
    """All that a run's result depends on, ready for JSON; where its folder lies does not count."""
    chosen = {name: value for name, value in asdict(options).items() if name not in ("output", "resume")}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    for name, texts in documents.items():
        content = repr([document.sequences for document in texts])
        settings[f"content of {name}"] = hashlib.sha256(content.encode()).hexdigest()
    return settings


def _arguments(options: PretrainingOptions) -> TrainingArguments:
    device = choose_device("auto")
    arguments = TrainingArguments(
        output_dir=str(RunFolder(options.output).checkpoints),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=1,  # one pack
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup,  # below 1: a share of all steps
        lr_scheduler_type="linear",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_gradient_norm,
        bf16=inference_dtype(device) is torch.bfloat16,
        use_cpu=device.type == "cpu",
        seed=options.seed,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=options.save_steps,
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
        average_tokens_across_devices=False,
        dataloader_pin_memory=device.type == "cuda",
    )
    # With several GPUs in one process the Trainer would split each pack among them, blind to where documents end.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _recompute_states(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise EncoderError(
            f"gradient_checkpointing needs an encoder that supports it, {model.config.model_type} does not; leave "
            "it out"
        )
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name in later releases of transformers 5
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _save(
    folder: Path,
    options: PretrainingOptions,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    report: PretrainingReport,
) -> None:
    model.config.name_or_path = ""  # a folder of this machine means nothing to whoever gets the model
    model.save_pretrained(folder)
    tokenizer.model_max_length = options.context
    tokenizer.save_pretrained(folder)
    content = {"options": asdict(options), **asdict(report), "after": report.history[-1]}
    write_encoder_card(folder, options, content)
    (folder / METRICS).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
