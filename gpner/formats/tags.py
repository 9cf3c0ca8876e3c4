"""Tags of tokens, in the schemes IOB1, IOB2, BIOES, BILOU and BMES, and the entities that they spell.

Every scheme is read by the same rules, those of conlleval (the scorer of the CoNLL-2000 and 2003 shared tasks), so no
entity hangs on the scheme; it says which sequences are ill-formed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# BMES and BILOU name the same places in an entity by other letters.
SAME = {"M": "I", "L": "E", "U": "S"}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as written; `place` is B, I, E, S or O in whatever scheme, `label` is empty outside of entities."""

    written: str
    place: str
    label: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a file's tags may say; `begins` if I begins an entity, `ends` if every entity has an end of its own."""

    name: str
    begins: bool
    ends: bool


OUTSIDE = Tag("O", "O", "")


def make_tag(written: str) -> Tag | None:
    """Take a tag apart; None if it is not `O` or a letter of a scheme, `-` and a label."""
    if written == "O":
        return OUTSIDE
    letter, hyphen, label = written.partition("-")
    place = SAME.get(letter, letter)
    return Tag(written, place, label) if place in ("B", "I", "E", "S") and hyphen and label.strip() else None


def scheme_of(sentences: Iterable[Sequence[Tag]]) -> Scheme:
    """Tell the scheme of a file.

    Entities end in E or L, or are S or U, in a file where these are at least half as many as B; a few in a file of B
    and I are mistakes. Of the schemes without ends it is IOB1 if some I begins an entity and every B stands where IOB1
    needs one, right after an entity of its label; IOB2 otherwise.
    """
    letters: Counter[str] = Counter()
    beginning: Counter[str] = Counter()
    for tags in sentences:
        for previous, tag in zip((OUTSIDE, *tags), tags, strict=False):
            letters[tag.written[0]] += 1
            beginning[tag.place] += previous.label != tag.label
    ends = letters["E"] + letters["L"] + letters["S"] + letters["U"]
    if ends and 2 * ends >= letters["B"]:
        name = "BMES" if letters["M"] else "BILOU" if letters["L"] + letters["U"] else "BIOES"
        return Scheme(name, begins=False, ends=True)
    if beginning["I"] and not beginning["B"]:
        return Scheme("IOB1", begins=True, ends=False)
    return Scheme("IOB2", begins=False, ends=False)


def decode(tags: Sequence[Tag], scheme: Scheme) -> tuple[list[tuple[int, int, str]], list[tuple[int, str]]]:
    """Read the entities of one sentence.

    Returns:
        Entities as first and last token (inclusive) and label; and what the scheme forbids, as token and message.
    """
    entities: list[tuple[int, int, str]] = []
    wrong: list[tuple[int, str]] = []
    first: int | None = None  # of the entity that is open
    for index, tag in enumerate((*tags, OUTSIDE)):
        continues = first is not None and tag.place in ("I", "E") and tags[first].label == tag.label
        if first is not None and not continues:
            entities.append((first, index - 1, tags[first].label))
            if scheme.ends:
                wrong.append((index - 1, f"an entity must have an end in {scheme.name}, has none; read as ending here"))
            first = None
        if not continues and tag is not OUTSIDE:
            first = index
        wrong.extend((index, message) for message in _wrong(tag, scheme, continues))
        if first is not None and tag.place in ("E", "S"):
            entities.append((first, index, tag.label))
            first = None
    return entities, wrong


def _wrong(tag: Tag, scheme: Scheme, continues: bool) -> Iterator[str]:
    if tag.place in ("E", "S") and not scheme.ends:
        yield f"a tag of {scheme.name} must begin with B or I, was: {tag.written}; read as an end of an entity"
    elif tag.place in ("I", "E") and not continues and not scheme.begins:
        yield f"{tag.written} must continue an entity of its label, follows none; read as the beginning of a new one"
