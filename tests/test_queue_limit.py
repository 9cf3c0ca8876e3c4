"""The queue refuses documents exactly where its limit is."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from redis import Redis

from gpner.errors import QueueFull
from tests.consumers import done
from worker.client import CHUNK_DOCUMENTS, Client
from worker.protocol import Document
from worker.queue import DocumentQueue
from worker.settings import Settings

# At each line of its input it submits until the queue is full, and prints how many documents were accepted.
PRODUCER = """
import sys
from gpner.errors import QueueFull
from worker.client import Client

with Client() as client:
    for _ in sys.stdin:
        accepted = 0
        while True:
            try:
                accepted += len(client.submit_many(["text"] * int(sys.argv[1])))
            except QueueFull as error:
                print(accepted + len(error.accepted), flush=True)
                break
"""


@pytest.fixture
def client(settings: Settings, redis: Redis) -> Iterator[Client]:
    with Client(settings) as client:
        yield client


@pytest.mark.integration
def test_the_limit_holds_exactly_under_eight_producers(client: Client, queue: DocumentQueue) -> None:
    """Four add one document at a time, four add seven hundred: more than go into one step, or into the queue."""
    environment = {
        **os.environ,
        "GPNER_REDIS_URL": client.settings.redis_url.get_secret_value(),
        "GPNER_NAMESPACE": client.settings.namespace,
        "GPNER_MAX_QUEUED_DOCUMENTS": "2000",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-c", PRODUCER, documents] for documents in ("1", "700") * 4]
    producers = [subprocess.Popen(command, env=environment, **pipes) for command in commands]
    try:
        # From no room to an empty queue: just as many come in.
        for room in (2000, 0, 1, 701, 2000):
            queue.commit([done(queue, entry) for entry in queue.read(room, 0)])
            for producer in producers:
                print("go", file=producer.stdin, flush=True)
            accepted = [int(producer.stdout.readline()) for producer in producers]

            assert (sum(accepted), sum(queue.depth().values())) == (room, 2000)
    finally:
        for producer in producers:
            producer.communicate()


def test_the_limit_counts_all_streams_and_what_workers_hold(client: Client, queue: DocumentQueue) -> None:
    client.settings = client.settings.model_copy(update={"max_queued_documents": 3})
    for priority in ("high", "normal", "bulk"):
        client.submit("text", priority=priority)
    entries = queue.read(3, 0)

    with pytest.raises(QueueFull, match="may hold 3 unfinished documents and holds 3"):
        client.submit("text")

    queue.commit([done(queue, entries[0])])
    client.submit("text")


def test_a_queue_that_fills_up_in_the_middle_accepts_what_it_has_room_for_and_says_so(
    client: Client, queue: DocumentQueue
) -> None:
    client.settings = client.settings.model_copy(update={"max_queued_documents": CHUNK_DOCUMENTS + 10})
    documents = [Document.new("text") for _ in range(CHUNK_DOCUMENTS + 30)]

    with pytest.raises(QueueFull, match=f"accepted {CHUNK_DOCUMENTS + 10} of {CHUNK_DOCUMENTS + 30}") as caught:
        client.submit_many(documents)

    added = [entry.fields[b"id"].decode() for entry in queue.read(1000, 0)]
    assert caught.value.accepted == added == [document.id for document in documents[: CHUNK_DOCUMENTS + 10]]
