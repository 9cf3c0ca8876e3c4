"""What ops/try-compose.sh runs on the host and in a producer's container: sends documents, waits, counts answers.

Every document is sent under an id of its own, with a stream that gets its answer too. A lost document is an id without
a result, one that was answered twice stands twice on the stream. The texts are the demo's, each many times over, so
answers can also be held against each other: whoever read a text, together with whatever, must have found the same.
"""

import json
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from gpner.errors import GpnerError
from worker.client import Client, Document, Result

# The longest time without any new answer; the service may be down for a good part of it.
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.5


def main() -> int:
    """`submit N`, `wait N`, or `check N`."""
    command, count = sys.argv[1], int(sys.argv[2])
    try:
        with Client() as client:
            {"submit": submit, "wait": wait, "check": check}[command](client, count)
    except GpnerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def submit(client: Client, count: int) -> None:
    """Send so many documents."""
    reply_to = client.keys.reply("trial")
    client.submit_many(Document.new(text, id=name, reply_to=reply_to) for name, text in documents(count))


def wait(client: Client, count: int) -> None:
    """Wait for so many answers.

    Raises:
        GpnerError: If none came for a long time.
    """
    seen, deadline = 0, time.monotonic() + PATIENCE_SECONDS
    while (answered := answers(client)) < count:
        if answered > seen:
            seen, deadline = answered, time.monotonic() + PATIENCE_SECONDS
        if time.monotonic() > deadline:
            raise GpnerError(f"{count} answers must come, {answered} came and no other for {PATIENCE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def check(client: Client, count: int) -> None:
    """Hold results and replies against what was sent.

    Raises:
        GpnerError: If a document is lost, failed, was answered twice, or otherwise than its copies.
    """
    found: dict[str, set[str]] = {}
    for name, text in documents(count):
        result = client.result(name, timeout_seconds=0)
        if any(text[entity.start : entity.end] != entity.text for entity in result.entities):
            raise GpnerError(f"entities must cut their text, those of {name} do not")
        found.setdefault(text, set()).add(spans(result))
    if differing := [text for text, answered in found.items() if len(answered) > 1]:
        raise GpnerError(f"copies of a document must have the same entities, those of {len(differing)} texts have not")
    if (answered := answers(client)) != count:
        raise GpnerError(f"each of {count} documents must be answered once, there are {answered} answers")


def documents(count: int) -> Iterator[tuple[str, str]]:
    """Ids and texts."""
    lines = files("worker.demo").joinpath("documents.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return ((f"trial-{number}", texts[number % len(texts)]) for number in range(count))


def answers(client: Client) -> int:
    """How many answers the stream of replies holds."""
    streams: dict[Any, Any] = {client.keys.reply("trial"): "0"}
    found: Any = client.redis.xread(streams)
    return sum(len(entries) for _, entries in found)


def spans(result: Result) -> str:
    """The entities of a result, in a form that can be compared."""
    return json.dumps(sorted((entity.start, entity.end, entity.label) for entity in result.entities))


if __name__ == "__main__":
    sys.exit(main())
