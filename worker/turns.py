"""Which document stream a read begins with: the most urgent, and now and then another, so that none starves.

Every stream but the most urgent earns credit, a share of all that is read, and whichever has some is read first. What
it then gets is taken off its credit. The unit is bytes of text and not documents or reads: a corpus of books must not
take nearly all of the device's time from short urgent documents.
"""

from collections.abc import Mapping, Sequence


class Turns:
    """The order of the streams, read by read. Used by one thread.

    Args:
        streams: Most urgent first.
        share: Of all that is read, what each stream but the first gets however much more urgent there is.
    """

    def __init__(self, streams: Sequence[str], share: float) -> None:
        self._streams = tuple(streams)
        self._share = share
        self._credit = dict.fromkeys(self._streams[1:], 0.0)

    def order(self) -> tuple[str, ...]:
        """The streams in the order in which the next read shall empty them."""
        first = max(self._credit, key=lambda stream: self._credit[stream])
        if self._credit[first] <= 0:
            return self._streams
        return first, *(stream for stream in self._streams if stream != first)

    def record(self, order: Sequence[str], found: Mapping[str, int]) -> None:
        """Note what a read in this order found, in bytes: a stream gave something only if those before it are empty."""
        total = sum(found.values())
        last = max((order.index(stream) for stream, size in found.items() if size), default=len(order))
        for position, stream in enumerate(order):
            if stream not in self._credit:
                continue
            is_empty = position < last
            had_its_turn = position == last and order.index(self._streams[0]) < position
            if is_empty or had_its_turn:
                self._credit[stream] = 0.0
            else:
                self._credit[stream] += self._share * total - found.get(stream, 0)
