"""Which ids a job has seen, so that none stands in the output twice. On disk: memory stays the same at any number."""

import sqlite3
import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

# Among a billion ids two have the same digest with a probability of 10^-11.
DIGEST_BYTES = 12
CACHE_KIBIBYTES = 65_536
# Ids fall anywhere in the table: the fewer the checkpoints, the more of them change a page together. 100 MB.
CHECKPOINT_PAGES = 25_000


class SeenIds:
    """The ids of all rows that were read, each with the place that it was first read at, as a number.

    A row that is read again, after a kill, finds itself and is no duplicate. Safe for threads.

    Args:
        file: Where they are kept; None keeps them in memory, for a job that leaves nothing behind.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.Lock()
        self._table = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=WAL")
        self._table.execute("PRAGMA synchronous=FULL")
        self._table.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
        self._table.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._table.execute("CREATE TABLE IF NOT EXISTS seen (id BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def add(self, ids: Sequence[str], places: Sequence[int]) -> list[int | None]:
        """Note ids; of each that was seen before at another place return that place, of the others None."""
        digests = [blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest() for name in ids]
        rows = list(zip(digests, places, strict=True))
        with self._lock:
            added = self._table.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).rowcount
            if added == len(rows):
                return [None] * len(rows)
            query = "SELECT place FROM seen WHERE id = ?"
            found = [self._table.execute(query, [digest]).fetchone()[0] for digest, _ in rows]
        return [None if first == place else first for first, place in zip(found, places, strict=True)]

    def commit(self) -> None:
        """Make all that was noted safe on the disk."""
        with self._lock:
            self._table.execute("COMMIT")
            self._table.execute("BEGIN")

    def close(self) -> None:
        """Close the file; what was noted since the last commit is forgotten."""
        self._table.close()
