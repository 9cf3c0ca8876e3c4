"""The demo, from its documents to a real run of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from gpner.entities import Entity
from worker.demo.model import ADAPTER
from worker.demo.run import SHOWN, read_documents
from worker.demo.show import highlight

START_SECONDS = 100


def test_the_demo_ships_two_dozen_long_documents():
    documents = read_documents()

    assert len({document.id for document in documents}) == len(documents) >= 20
    assert all(2_000 <= len(document.text) <= 12_000 for document in documents)
    assert {document.kind for document in documents} == {"news", "minutes", "story", "contract"}
    assert set(SHOWN) <= {document.id for document in documents}


def test_nested_entities_are_bracketed_inside_each_other():
    text = "The mayor of Lisbon met Ada."
    found = [(0, 19, "PER"), (13, 19, "GPE"), (24, 27, "PER")]
    entities = [Entity(start, end, label, text[start:end], 0.9) for start, end, label in found]

    marked = highlight(text, entities)

    assert marked.plain == "[The mayor of [Lisbon]GPE]PER met [Ada]PER."


def test_a_document_without_entities_is_shown_as_it_is():
    assert highlight("[brackets] stay", []).plain == "[brackets] stay"


def test_an_entity_that_crosses_another_is_left_out_of_the_brackets():
    entities = [Entity(0, 5, "PER", "a b c", 0.9), Entity(4, 9, "GPE", "c d e", 0.9)]

    assert highlight("a b c d e", entities).plain == "[a b c]PER d e"


def test_the_shipped_model_is_small_and_names_its_data():
    weights = ADAPTER / "adapter_model.safetensors"
    card = (ADAPTER / "README.md").read_text(encoding="utf-8")

    assert weights.stat().st_size <= 10_000_000
    assert "LitBank" in card
    assert "CC BY 4.0" in card
    assert re.search(r"Test, strict: .*F1 0\.\d{3}", card)


@pytest.mark.slow
@pytest.mark.integration
def test_the_demo_shows_entities_and_serves_a_second_terminal_until_it_is_stopped(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPNER_")}
    command = [sys.executable, "-m", "worker.cli", "demo", "--keep"]
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "100"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as demo:
        try:
            output = read_until(demo, "running until Ctrl-C")
            port = int(re.search(r"-p (\d+) XADD", output)[1])
            with redis.Redis(port=port) as other_terminal:
                text = "The captain of the Dolphin met Ada in Lisbon."
                other_terminal.execute_command("XADD", "gpner:documents", "*", "id", "mine", "text", text)
                result = wait_for(lambda: other_terminal.get("gpner:result:mine"))
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == 0
        finally:
            demo.kill()

    entities = json.loads(result)["entities"]
    assert "Lisbon" in {entity["text"] for entity in entities}
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)
    assert re.search(r"24 documents, [\d,]+ tokens, [\d,]+ entities in", output)
    shown = " ".join(re.sub(r"\[|\]([A-Z]{3})?|[│\n]", "", output).split())
    assert read_documents_by_id()["kilometre-212"].split("\n\n")[-1] in shown
    assert re.search(r"metrics: http://127\.0\.0\.1:\d+/metrics", output)
    with redis.Redis(port=port) as gone, pytest.raises(redis.ConnectionError):
        gone.ping()


@pytest.mark.slow
@pytest.mark.integration
def test_a_demo_that_is_killed_leaves_no_worker_behind(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "worker.cli", "demo"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as demo:
        worker = wait_for(lambda: worker_of(demo.pid), seconds=60)
        demo.kill()

    wait_for(lambda: True if not Path(f"/proc/{worker}").exists() else None, seconds=60)


def worker_of(parent):
    """The worker process that another one has started, as the kernel knows it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent_of = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent_of == parent and b"worker.cli\0start" in (process / "cmdline").read_bytes():
                return int(process.name)
    return None


def read_documents_by_id():
    return {document.id: document.text for document in read_documents()}


def read_until(process, wanted):
    lines = []
    deadline = time.monotonic() + START_SECONDS
    for line in process.stdout:
        lines.append(line)
        if wanted in line or time.monotonic() > deadline:
            break
    assert wanted in lines[-1], "".join(lines)
    return "".join(lines)


def wait_for(look, seconds=30):
    deadline = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found is not None
    return found
