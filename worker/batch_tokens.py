"""How many tokens a batch should hold on this device: found by trying, and kept for the next start.

A larger batch costs less a token until it keeps the device busy; past that it only makes answers wait, and on a CPU it
falls out of the caches. Where that is differs by a factor of ten between devices, so the model itself is timed.
"""

import hashlib
import json
import logging
import platform
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gpner.errors import DocumentError, OutOfMemoryError
from gpner.extractor import Extractor
from gpner.tokenization import TokenizedText

logger = logging.getLogger(__name__)

# Where the search begins, and where it ends at the latest. A CPU gains nothing past its caches, and does not say that
# memory is short: the kernel would end the process.
FEWEST, MOST, MOST_ON_CPU = 1024, 262_144, 16_384
# Among sizes this close to the fastest the smallest is taken: the rest is noise, and larger ones make answers wait.
CLOSE = 1.03
# No batch is tried that would probably take longer.
LONGEST_SECONDS = 5.0
# How often a batch is run at most, and after how many seconds of it once more would teach nothing.
RUNS, ENOUGH_SECONDS = 2, 0.5
DOCUMENT_WORDS = 256


def choose_batch_tokens(extractor: Extractor, cache: Path) -> int:
    """Look up how many tokens a batch of this model should hold on this device, or find it and keep it.

    Args:
        extractor: Its model is run, with larger and larger batches; its `max_batch_tokens` is left as it was.
        cache: Folder of what was found, as `kept_or_found` has it.

    Raises:
        OutOfMemoryError: If the device cannot hold even the smallest batch that is tried.
    """

    def find() -> int:
        started = time.perf_counter()
        on_gpu = extractor.device.type == "cuda"
        tokens_per_second(extractor, FEWEST)  # for the work of a first time
        found = find_batch_tokens(lambda tokens: tokens_per_second(extractor, tokens), MOST if on_gpu else MOST_ON_CPU)
        if on_gpu:
            torch.cuda.empty_cache()  # what the largest one took
        logger.info("batches of %d tokens suit this device, found in %.1f s", found, time.perf_counter() - started)
        return found

    return kept_or_found(cache, _describe(extractor), find)


def kept_or_found(cache: Path, described: str, find: Callable[[], int]) -> int:
    """Look up what was found before, or find and keep it.

    Args:
        cache: A folder with a file for each model and device; workers may share it. One that cannot be written costs
            the next start another search.
        described: What the answer depends on.
        find: Finds it.
    """
    file = cache / f"batch-tokens-{hashlib.sha256(described.encode()).hexdigest()[:16]}.json"
    if kept := _read(file):
        return kept
    found = find()
    # A name of its own: workers of several containers may share the folder, and each may be process 1.
    aside = file.with_suffix(f".{secrets.token_hex(4)}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"batch_tokens": found, "of": described}) + "\n", encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        logger.warning("%s must be writable for the next start to be quicker, is not: %s", cache, error)
    return found


def find_batch_tokens(speed_of: Callable[[int], float], most: int) -> int:
    """Double a batch as long as that makes it faster; returns the smallest size that is about as fast as any.

    Args:
        speed_of: Runs a batch of so many tokens; returns tokens a second.
        most: The largest size to try.

    Raises:
        OutOfMemoryError: If the smallest size does not fit.
    """
    tokens = fastest = FEWEST
    speeds = {tokens: speed_of(tokens)}
    # One size that is no faster may be noise, two are none.
    while tokens < min(most, 4 * fastest) and 2 * tokens <= LONGEST_SECONDS * speeds[tokens]:
        tokens *= 2
        try:
            speeds[tokens] = speed_of(tokens)
        except (OutOfMemoryError, DocumentError) as error:  # or it finds more than one batch can hold
            logger.info("batches of %d tokens do not fit: %s", tokens, error)
            break
        fastest = max(speeds, key=speeds.__getitem__)
    for tokens, speed in speeds.items():
        logger.info("batches of %d tokens: %.0f tokens/s", tokens, speed)
    return min(tokens for tokens, speed in speeds.items() if CLOSE * speed >= speeds[fastest])


def tokens_per_second(extractor: Extractor, batch_tokens: int) -> float:
    """Run a batch of about so many tokens some times; returns the best speed.

    Raises:
        OutOfMemoryError: If the device cannot hold it.
    """
    # Half a context, for tokenizers that make two tokens of a word.
    words = min(DOCUMENT_WORDS, extractor.model.config.context // 2)
    (sample,) = extractor.tokenize(["a " * words])
    documents = [sample] * max(1, batch_tokens // sample.n_window_tokens)
    before = extractor.max_batch_tokens
    extractor.max_batch_tokens = batch_tokens
    seconds: list[float] = []
    try:
        while len(seconds) < RUNS and sum(seconds) < ENOUGH_SECONDS:
            seconds.append(_seconds(extractor, documents))
    finally:
        extractor.max_batch_tokens = before
    return len(documents) * sample.n_window_tokens / min(seconds)


def _seconds(extractor: Extractor, documents: list[TokenizedText]) -> float:
    started = time.perf_counter()
    extractor.run(documents)
    return time.perf_counter() - started


def _read(file: Path) -> int | None:
    """What is kept in a file; None for nothing of use."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["batch_tokens"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return kept if isinstance(kept, int) and FEWEST <= kept <= MOST else None


def _describe(extractor: Extractor) -> str:
    """What the best size depends on."""
    return f"model {extractor.model_revision}, {_device(extractor.device)}, torch {torch.__version__}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory} bytes"
    try:
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        named = None
    return f"{named[1] if named else platform.processor()}, {torch.get_num_threads()} threads"
