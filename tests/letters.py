"""Dead letters for tests, and the tables in which commands show them."""

from redis import Redis

from worker.protocol import Keys
from worker.results import dead_letter_json

KEYS = Keys("test:")


def bury(
    redis: Redis,
    fields: dict[bytes, bytes],
    stream: str = KEYS.normal,
    reason: str = "EngineError",
    message: str = "it was told to",
) -> str:
    """Add a letter and return its id."""
    letter = dead_letter_json(
        stream=stream, entry_id="1-1", fields=fields, deliveries=3, error_type=reason, message=message
    )
    return redis.xadd(KEYS.dead, {"letter": letter}).decode()


def cells(output: str) -> list[list[str]]:
    """The rows of all tables in it."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
