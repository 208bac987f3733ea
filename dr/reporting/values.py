"""Values of settings as text."""

import json
from collections.abc import Mapping, Sequence


def canonical(value: object) -> str:
    """One text for equal values, and different ones for others."""
    return json.dumps(value, sort_keys=True, default=str)


def printable(text: str) -> str:
    """Text whose characters that do not print are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def setting_texts(rows: Sequence[Mapping[str, object]], key: str) -> list[str]:
    """A cell for each row's settings: short, unless two different values would then look alike."""
    held = [row[key] for row in rows if key in row]
    short = {canonical(value): brief(value) for value in held}
    form = brief if len(set(short.values())) == len(short) else canonical
    return [printable(form(row[key])) if key in row else "" for row in rows]


def brief(value: object) -> str:
    """A value as one types it in a command; of a list of named transforms, the names."""
    if isinstance(value, list):
        names = [item.get("name") if isinstance(item, dict) else item for item in value]
        return f"[{','.join(map(brief, names))}]"
    if isinstance(value, str):
        return value
    return canonical(value)
