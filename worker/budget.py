"""How many tokens a batch may hold: what was set or suits the model, less after the device ran out of memory."""

import logging

logger = logging.getLogger(__name__)

# For an engine that does not say, and until the model is there.
ORDINARY_TOKENS = 4096
# Below this a smaller batch helps no more: it is one window of an ordinary encoder.
MIN_TOKENS = 512
# Clean batches between two steps up, and the size of a step. Slow, because each wrong guess costs a failed forward.
CLEAN_RUNS = 64
STEP = 1.25


class TokenBudget:
    """The most tokens in one batch. Written by the forward thread alone, read by others.

    Args:
        max_tokens: The budget starts there and never passes it.
    """

    def __init__(self, max_tokens: int) -> None:
        self.start_again(max_tokens)

    def start_again(self, max_tokens: int) -> None:
        """Forget what was, for another model."""
        self.max_tokens = max_tokens
        self.tokens = max_tokens
        self._clean_runs = 0

    def shrink(self, failed_tokens: int) -> bool:
        """Allow half of what the device had no memory for; False if no less can be allowed than is already."""
        self._clean_runs = 0
        tokens = max(min(MIN_TOKENS, self.max_tokens), failed_tokens // 2)
        if tokens >= self.tokens:
            return False
        self.tokens = tokens
        logger.warning("out of memory: batches hold at most %d tokens from now on", tokens)
        return True

    def restore(self, tokens: int) -> None:
        """Take the shrinking since `tokens` back: one document was too large for the device, not the batches."""
        self.tokens = tokens

    def record_clean_run(self) -> None:
        """Count a batch that fitted; after many in a row, try a somewhat larger one."""
        if self.tokens == self.max_tokens:
            return
        self._clean_runs += 1
        if self._clean_runs == CLEAN_RUNS:
            self._clean_runs = 0
            self.tokens = min(self.max_tokens, int(self.tokens * STEP) + 1)
            logger.info("batches may hold %d tokens again", self.tokens)
