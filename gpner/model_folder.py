"""What a model's folder says of itself, read without torch, so that a wrong path is found out in the first second."""

import json
import os
from pathlib import Path
from typing import Any

from gpner.errors import CheckpointError

MODEL_TYPE = "gpner"


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `config.json` and check that it is one of ours.

    Raises:
        CheckpointError: If it is missing, broken, or of another kind of model, or one of the folder's files may not be
            read.
    """
    file = folder / "config.json"
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        unreadable = next((path for path in sorted(folder.iterdir()) if not os.access(path, os.R_OK)), None)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError(
            f"a model folder must hold a config.json, {folder} does not; train a model with `gpner train`"
        ) from error
    except PermissionError as error:
        raise _not_readable(folder, error.filename) from error
    except ValueError as error:
        raise CheckpointError(f"config.json must be JSON, in {folder}: {error}") from error
    if unreadable is not None:
        raise _not_readable(folder, unreadable)
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != MODEL_TYPE:
        raise CheckpointError(
            f"config.json must be of a gpner model, in {folder} its model_type is: {kind}; "
            "an encoder becomes one through `gpner train --encoder`"
        )
    return content


def _not_readable(folder: Path, path: str | Path) -> CheckpointError:
    return CheckpointError(
        f"a model folder must be readable for who runs the model, {path} is not; try `chmod -R a+rX {folder}`"
    )
