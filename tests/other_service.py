"""Another service: a Celery app, a queue and tasks of its own, and a chain in which gpner is the middle.

As a program it runs the chain and prints what came of it.
"""

import json
import os
import sys
from typing import Any

from celery import Celery, chain

URL, PREFIX = os.environ["OTHER_REDIS_URL"], {"global_keyprefix": os.environ["OTHER_PREFIX"]}

app = Celery("other", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options=PREFIX,
    result_backend_transport_options=PREFIX,
    broker_connection_retry_on_startup=True,
    task_default_queue="other",
)


@app.task(name="other.fetch")
def fetch() -> list[Any]:
    return ["ADA in LONDON", {"text": "not !raise", "id": "bad"}, {"text": "PARIS and ROME", "labels": ["WORD"]}]


@app.task(name="other.words")
def words(answers: list[dict[str, Any]]) -> list[list[str]]:
    return [[entity["text"] for entity in answer.get("entities", ())] for answer in answers]


if __name__ == "__main__":
    extract = app.signature("gpner.extract", queue="tasks")
    # gpner's worker sends the last one, and knows no routes of this app.
    last = words.s().set(queue="other")
    sys.stdout.write(json.dumps(chain(fetch.s(), extract, last).apply_async().get(timeout=30)))
