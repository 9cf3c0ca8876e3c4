"""What fine-tuning and pre-training ask of transformers alike: the Trainer's arguments, states that are recomputed."""

from typing import Any

import torch
from transformers import TrainerState, TrainingArguments

from gpner.errors import EncoderError
from gpner.extractor import choose_device, inference_dtype
from gpner.pretraining_options import PretrainingOptions
from gpner.run_folder import RunFolder
from gpner.training_options import TrainingOptions

# Loss and rates are logged this often over a run: curves and logs of long runs are no heavier than those of short ones.
LOGGED_POINTS = 500


def new_arguments(options: TrainingOptions | PretrainingOptions, **others: Any) -> TrainingArguments:
    """Make the Trainer's arguments: an evaluation an epoch, in the precision of the device, silent by itself."""
    device = choose_device("auto")
    arguments = TrainingArguments(
        output_dir=str(RunFolder(options.output).checkpoints),
        num_train_epochs=options.epochs,
        warmup_steps=options.warmup,  # below 1: a share of all steps
        lr_scheduler_type="linear",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_gradient_norm,
        bf16=inference_dtype(device) is torch.bfloat16,
        use_cpu=device.type == "cpu",
        seed=options.seed,
        eval_strategy="epoch",
        logging_steps=1 / LOGGED_POINTS,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,
        **others,
    )
    # With several GPUs in one process the Trainer would split each pack among them, blind to where documents end.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def skip_finished_training(arguments: TrainingArguments, state: TrainerState, *, stopped: bool = False) -> None:
    """Let a run that was killed after its last step train no further.

    The Trainer goes on with an epoch that is not whole, and only after a step looks whether it was to end.

    Args:
        arguments: Those of the run that continues, which are changed if it is to end.
        state: How far it had come.
        stopped: Whether it ended before its last step.
    """
    if stopped or 0 < state.max_steps <= state.global_step:
        arguments.num_train_epochs = int(state.epoch or 0)


def recompute_states(encoder: Any) -> None:
    """Let an encoder compute its inner states again in the backward pass instead of keeping them.

    Args:
        encoder: One of transformers, with or without a head.

    Raises:
        EncoderError: If its family does not support that.
    """
    if not encoder.supports_gradient_checkpointing:
        raise EncoderError(
            f"gradient_checkpointing needs an encoder that supports it, {encoder.config.model_type} does not; leave "
            "it out"
        )
    settings = {"use_reentrant": False}
    if hasattr(encoder, "activation_checkpointing_enable"):  # its name in later releases of transformers 5
        encoder.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
