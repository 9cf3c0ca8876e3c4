"""How much of a job may be in flight over the queue."""

from collections import deque

from worker.bulk.rows import Row

# As much is in flight as was answered over so long, so that workers are never short of documents; a stop waits as long.
# At least so many, because the first answers take their time.
AHEAD_SECONDS = 10.0
FEWEST_IN_FLIGHT = 512
# What Redis and this process hold of a job at the most, kept columns too; enough for a few dozen GPUs.
MOST_IN_FLIGHT = 16_384
MOST_IN_FLIGHT_CHARACTERS = 128_000_000


class Room:
    """How many documents may be in flight, by what was answered of late; all times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._documents = self._characters = 0
        self._answered: deque[float] = deque()

    def is_left(self, now: float) -> bool:
        """Whether there is room for more."""
        while self._answered and now - self._answered[0] > AHEAD_SECONDS:
            self._answered.popleft()
        documents = min(MOST_IN_FLIGHT, max(FEWEST_IN_FLIGHT, len(self._answered)))
        return self._documents < documents and self._characters < MOST_IN_FLIGHT_CHARACTERS

    def take(self, row: Row) -> None:
        """Count a document that is to be sent."""
        self._documents += 1
        self._characters += row.size

    def give_back(self, row: Row) -> None:
        """Count one that is written down."""
        self._documents -= 1
        self._characters -= row.size

    def note_answer(self, now: float) -> None:
        """Count an answer."""
        self._answered.append(now)
