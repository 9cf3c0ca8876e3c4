"""The end of a group of processes that train together."""

from typing import cast

from torch import distributed, nn
from transformers import Trainer


def leave_group(trainer: Trainer) -> None:
    """Leave the group, if there is one: a process that exits in it may be aborted, and takes the others along.

    The group's threads give tensors back under Python's lock. Were the model's reducer the last to hold the group, it
    would wait for them with the lock in its hand, for ever. So the reducer goes while the group is held here.
    """
    group = distributed.group.WORLD if distributed.is_available() and distributed.is_initialized() else None
    trainer.model_wrapped = cast(nn.Module, trainer.model)
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
    del group
