"""What the user asks of a bulk job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpner.errors import ConfigError
from worker.bulk.addresses import is_remote, shown
from worker.bulk.files import FORMATS
from worker.bulk.inputs import STANDARD_INPUT
from worker.bulk.rows import OWN_COLUMNS

STANDARD_OUTPUT = "-"
SHARD_DOCUMENTS = 10_000
ID_FIELD = "id"


@dataclass(frozen=True, slots=True)
class Options:
    """The flags of `gpner-worker bulk`.

    Raises:
        ConfigError: If two of them contradict each other, or one is out of its range.
    """

    inputs: Sequence[str]
    output: str
    local: bool = False
    format: str = "parquet"
    text_field: str = "text"
    id_field: str = ID_FIELD
    keep: Sequence[str] = ()
    shard_documents: int = SHARD_DOCUMENTS
    limit: int | None = None
    max_failures: int | None = None
    strict: bool = False
    retry_failures: bool = False
    dry_run: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        taken = [name for name in self.keep if name in OWN_COLUMNS]
        if taken:
            raise ConfigError(f"--keep must name columns that the output does not have already, was: {taken[0]}")
        if self.format not in FORMATS:
            raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, was: {self.format}")
        if self.shard_documents < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError("--shard-documents and --limit must be at least 1")
        if is_remote(self.output):
            raise ConfigError(
                f"--output must be a folder of this machine, was: {shown(self.output)}; copy it afterwards"
            )
        if self.max_failures is not None and self.max_failures < 0:
            raise ConfigError(f"--max-failures must be at least 0, was: {self.max_failures}")
        if self.retry_failures and self.to_standard_output:
            raise ConfigError("--retry-failures needs the folder of a job as --output, was: -")
        if self.retry_failures and STANDARD_INPUT in self.inputs:
            raise ConfigError("--retry-failures needs input that can be read again, was: -; give a file")

    @property
    def to_standard_output(self) -> bool:
        """Whether rows go there instead of into a folder; no job is remembered then."""
        return self.output == STANDARD_OUTPUT

    @property
    def has_job(self) -> bool:
        """Whether what is done is remembered, so that the same command goes on with it."""
        return not (self.to_standard_output or self.dry_run)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output)

    @property
    def required_columns(self) -> dict[str, Sequence[str]]:
        """What a table must have, by flag. Rows need no id, so that its column may be missing unless it was named."""
        ids = [self.id_field] if self.id_field != ID_FIELD else []
        return {"--text-field": [self.text_field], "--id-field": ids, "--keep": self.keep}

    def fingerprint(self, max_document_characters: int) -> dict[str, Any]:
        """What the output depends on besides input and model.

        Args:
            max_document_characters: As the settings have it.
        """
        return {
            "format": self.format,
            "text_field": self.text_field,
            "id_field": self.id_field,
            "keep": list(self.keep),
            "shard_documents": self.shard_documents,
            "max_document_characters": max_document_characters,
        }
