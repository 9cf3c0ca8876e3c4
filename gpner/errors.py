"""Every error that gpner and its worker raise on purpose.

A message says what must hold, what came, and what to do. Catch `GpnerError` to catch them all::

    GpnerError
    ├── ConfigError          a setting, an option or a configuration key
    ├── CheckpointError      a folder that should hold a trained model
    ├── EncoderError         an encoder that cannot do what is asked of it
    ├── ShapeError           tensors that disagree
    ├── DataError            a file of examples
    ├── DocumentError        one document: its text, its fields
    ├── TrainingError        a training run that cannot go on
    ├── OutOfMemoryError     the device cannot hold one more batch of this size
    └── ServiceError         Redis, a port or a GPU that the service needs
        ├── QueueFull        the queue holds as many documents as it may
        ├── ResultTimeout    no result came in time
        └── DocumentFailed   the document ended as a recorded failure
"""

from collections.abc import Sequence


class GpnerError(Exception):
    """The root of the tree."""


class ConfigError(GpnerError):
    """A setting, an option or a configuration key is unknown or out of its range."""


class CheckpointError(GpnerError):
    """A folder does not hold a checkpoint that can be loaded."""


class EncoderError(GpnerError):
    """An encoder cannot run packed, or has no position table to extend."""


class ShapeError(GpnerError):
    """Tensors disagree about a length or a size."""


class DataError(GpnerError):
    """A file of examples breaks its format; the message starts with `file:line`."""


class DocumentError(GpnerError):
    """A document cannot be read; other documents are not touched by it."""


class TrainingError(GpnerError):
    """A training run cannot go on: its loss is no number any more, or its checkpoint cannot be written."""


class OutOfMemoryError(GpnerError):
    """The device ran out of memory; the same documents may fit in smaller batches."""


class ServiceError(GpnerError):
    """Something that the service stands on is missing: Redis, a port, a free GPU."""


class QueueFull(ServiceError):
    """The queue is at its limit; `accepted` holds the ids of the documents that were added before it was."""

    def __init__(self, message: str, accepted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted = list(accepted)


class ResultTimeout(ServiceError):
    """No result came in time; the document stays queued and loses nothing."""


class DocumentFailed(ServiceError):
    """The document ended as a recorded failure, whose type and message this carries."""

    def __init__(self, document_id: str, error_type: str, message: str) -> None:
        super().__init__(f"document {document_id} failed with {error_type}: {message}")
        self.document_id = document_id
        self.error_type = error_type
