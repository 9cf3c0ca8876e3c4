"""The two ends of a job's flow: where answers come from, and where they go."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from worker.bulk.rows import Answer, Answered, Block


class Answering(Protocol):
    """Where answers come from: this process, or the queue.

    Attributes:
        workers: How many workers were seen at last; None where there are none, or nobody has asked yet.
        obstacle: What documents wait for, if it is not just their turn.
    """

    @property
    def workers(self) -> int | None: ...  # noqa: D102 - above

    @property
    def obstacle(self) -> str | None: ...  # noqa: D102 - above

    def answers(self, blocks: Iterator[Block], round_name: str) -> Iterator[Answered | None]:
        """Answer blocks in order; None now and then while there is nothing yet."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Output(Protocol):
    """Where answered blocks go."""

    def known(self, block: Block) -> Sequence[Answer] | None:
        """Answers that an earlier run has got already."""
        ...

    def write(self, block: Block, answers: Sequence[Answer], *, known: bool = False) -> None:
        """Take a block; they come in order."""
        ...
