"""Which documents share a pack. A pack has no padding, so only its tokens count, but documents of nearly equal length
share batched calls and finish together. Pure arithmetic: the worker's batcher uses it without loading torch.
"""

from collections.abc import Iterable, Sequence


def pack_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Divide documents into packs, longest documents first.

    Args:
        lengths: Tokens of each document.
        max_tokens: Most tokens in a pack; a document that has more is a pack by itself.

    Returns:
        Indices into `lengths`, each exactly once; equal lengths keep their order.
    """
    return pack_in_order(lengths, sorted(range(len(lengths)), key=lambda index: -lengths[index]), max_tokens)


def pack_in_order(lengths: Sequence[int], order: Iterable[int], max_tokens: int) -> list[list[int]]:
    """Divide documents into packs, one after another.

    Args:
        lengths: Tokens of each document.
        order: Indices into `lengths`, in the order in which they are packed.
        max_tokens: Most tokens in a pack; a document that has more is a pack by itself.

    Returns:
        The indices, each exactly once.
    """
    packs: list[list[int]] = []
    room = 0
    for index in order:
        if not packs or lengths[index] > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def fill_pack(lengths: Sequence[int], max_tokens: int, first: int) -> list[int]:
    """Choose one pack around a document that must not wait any longer.

    Args:
        lengths: Tokens of each waiting document.
        max_tokens: Most tokens in the pack; the first document goes in even if it has more.
        first: Index of the document that must be in the pack.

    Returns:
        Indices into `lengths`: `first`, then the documents nearest to it in length that still fit; of two equally near
        ones the lower index goes first.
    """
    wanted = lengths[first]
    pack, room = [first], max_tokens - wanted
    for index in sorted(range(len(lengths)), key=lambda index: abs(lengths[index] - wanted)):
        if index != first and lengths[index] <= room:
            pack.append(index)
            room -= lengths[index]
    return pack
