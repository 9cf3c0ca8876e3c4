"""What there is to look at: the output folder of a bulk job, or one file of results."""

import json
from dataclasses import dataclass
from pathlib import Path

from gpner.errors import ConfigError

SHARDS = "part-*"
SHARD_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True, slots=True)
class Output:
    """The files of one output.

    Attributes:
        results: Files of results, in the order of the input.
        sample: Documents with their texts, if the job has chosen some.
        failures: Documents without a result, if the job has written of them.
        is_finished: Whether the job is; one file is taken to be whole.
    """

    results: tuple[Path, ...]
    sample: Path | None = None
    failures: Path | None = None
    is_finished: bool = True

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.results, *(file for file in (self.sample, self.failures) if file)]


def find_output(source: Path) -> Output:
    """Find the files of an output.

    Raises:
        ConfigError: If there is none.
    """
    if source.is_file():
        return Output((source,))
    if not source.is_dir():
        raise ConfigError(f"what is viewed must be a folder or a file of results, {source} is neither; name another")
    shards = tuple(file for file in sorted(source.glob(SHARDS)) if file.name.endswith(SHARD_ENDINGS))
    if not shards:
        raise ConfigError(
            f"a folder of results must hold shards (part-00000.parquet and the like), {source} holds none; name the "
            "output folder of a bulk job, or a file of results"
        )
    sample, failures = (
        (file if file.is_file() else None) for file in (source / "sample.jsonl", source / "failures.jsonl")
    )
    return Output(shards, sample, failures, is_finished=_is_finished(source / "summary.json"))


def _is_finished(summary: Path) -> bool:
    try:
        found = json.loads(summary.read_bytes())
    except (OSError, ValueError):  # it is written when a run ends
        return False
    return isinstance(found, dict) and found.get("state") == "done"
