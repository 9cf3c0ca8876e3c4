"""A document with its entities marked, for a terminal: brackets and labels, coloured where there is colour."""

from collections.abc import Iterable

from rich.text import Text

from gpner.entities import Entity

STYLES = {
    "PER": "bright_cyan",
    "GPE": "bright_green",
    "LOC": "green",
    "FAC": "bright_yellow",
    "ORG": "bright_magenta",
    "VEH": "bright_red",
}


def highlight(text: str, entities: Iterable[Entity]) -> Text:
    """Bracket every entity and put its label behind it; nested ones nest their brackets.

    Args:
        text: The document.
        entities: Its entities, nested or apart. One that crosses an earlier one is left out, as brackets cannot cross.
    """
    marked = Text()
    position = 0
    open_entities: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start, -e.end, e.label)):
        while open_entities and open_entities[-1].end <= entity.start:
            position = _close(marked, text, position, open_entities)
        if open_entities and entity.end > open_entities[-1].end:
            continue
        _append(marked, text[position : entity.start], open_entities)
        marked.append("[", style=f"bold {_style(entity)}")
        position = entity.start
        open_entities.append(entity)
    while open_entities:
        position = _close(marked, text, position, open_entities)
    marked.append(text[position:])
    return marked


def _close(marked: Text, text: str, position: int, open_entities: list[Entity]) -> int:
    """Write up to the end of the innermost entity, and its bracket and label."""
    _append(marked, text[position : open_entities[-1].end], open_entities)
    entity = open_entities.pop()
    marked.append(f"]{entity.label}", style=f"bold {_style(entity)}")
    return entity.end


def _append(marked: Text, piece: str, open_entities: list[Entity]) -> None:
    marked.append(piece, style=_style(open_entities[-1]) if open_entities else "")


def _style(entity: Entity) -> str:
    return STYLES.get(entity.label, "bright_white")
