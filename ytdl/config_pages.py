"""What is made from the table of settings for people to read: docs/CONFIGURATION.md and .env.example.

A test keeps both files equal to what is made here. The table, and reading the environment, are `config`'s.
"""

from ytdl.config import FIELDS, text_of


def sections() -> dict[str, list[str]]:
    """The names of the settings by section, in the table's order."""
    found: dict[str, list[str]] = {}
    for name, field in FIELDS.items():
        found.setdefault(field.metadata["section"], []).append(name)
    return found


def markdown() -> str:
    """The text of docs/CONFIGURATION.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Made by `ytdl config --markdown`; edit the table in ytdl/config.py. -->",
        "",
        "Every setting is an environment variable, and every one has a default. A secret (marked so) is also read",
        "from the file that `NAME_FILE` names; the log tells at the start of one that every account of the machine may",
        "read. `ytdl config` shows what is in force, `ytdl config --check` says what is wrong with it.",
    ]
    for section, names in sections().items():
        lines += ["", f"## {section}", "", "| name | default | meaning |", "| --- | --- | --- |"]
        for name in names:
            field = FIELDS[name]
            default = f"`{text}`" if (text := text_of(field.default)) else ""
            secret = " Secret." if field.metadata["secret"] else ""
            lines.append(f"| `{name}` | {default} | {field.metadata['help']}{secret} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """The text of .env.example, in which every setting stands with its default, commented out."""
    lines = ["# Made by `ytdl config --env`. Take the hash off a line to change what it sets."]
    for section, names in sections().items():
        lines += ["", f"# --- {section} ---"]
        for name in names:
            lines += ["", f"# {FIELDS[name].metadata['help']}", f"#{name}={text_of(FIELDS[name].default)}"]
    return "\n".join(lines) + "\n"
