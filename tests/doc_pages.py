"""What the documentation shows: its shell commands, YAML examples, links and headings."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PLACEHOLDERS = {
    "CHALLENGE": "demo",
    "DIR": "folder",
    "FILE": "submission.csv",
    "NAME": "name",
    "RECIPE": "demo_resnet",
    "RUN": "run",
    "SPLIT": "test",
}
"""Words in capitals of quoted commands -> an example, to parse the command."""
SEPARATORS = {"&&", "||", "|", ";", "&"}


class Command(NamedTuple):
    """One command, its environment variables and redirections removed."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


@dataclass(frozen=True)
class Page:
    """One Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """Path from the root of the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without code blocks."""
        return re.sub(r"^```.*?^```", "", self.text, flags=re.S | re.M)

    def blocks(self, language: str) -> list[str]:
        """The code blocks of this language."""
        return re.findall(rf"^ *```{language}\n(.*?)^ *```", self.text, flags=re.S | re.M)

    @cached_property
    def commands(self) -> list[Command]:
        """All commands in bash blocks, and quoted commands of this project in the text."""
        found = [
            Command(self.name, words) for block in self.blocks("bash") for words in shell_commands(block)
        ]
        quoted = re.findall(r"`((?:cxrlt [a-z]|bash run\.sh|python tools/)[^`]*)`(?! and TAB)", self.prose)
        names = r"cxrlt [\w-]+( [\w-]+)?"  # names of commands, such as `cxrlt compare tricks`
        quoted = [text for text in quoted if not re.fullmatch(names, text)]
        return found + [Command(self.name, words) for text in quoted for words in shell_commands(text)]

    @property
    def written_files(self) -> list[tuple[str, str]]:
        """Path and text of the files that its bash blocks write with `cat > PATH <<'END'`."""
        blocks = "".join(self.blocks("bash"))
        pattern = r"^cat > (\S+) <<'(\w+)'\n(.*?)^\2$"
        return [(path, text) for path, _, text in re.findall(pattern, blocks, flags=re.S | re.M)]

    @cached_property
    def headings(self) -> set[str]:
        """Anchors of the headings, as GitHub makes them."""
        headings = re.findall(
            r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", self.text, flags=re.S | re.M), flags=re.M
        )
        return {slug(heading) for heading in headings}

    @cached_property
    def links(self) -> list[str]:
        """Targets of links and images that are not web addresses."""
        targets = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", self.prose)
        return [target for target in targets if not re.match(r"[a-z]+:", target)]

    def section(self, start: str) -> "str":
        """The text below the heading that starts with these words, up to the next heading of its level."""
        found = re.search(rf"^(#+) {re.escape(start)}.*?$(.*?)(?=^\1 |\Z)", self.text, flags=re.S | re.M)
        assert found, f"{self.name} has no section {start!r}"
        return found[2]


def pages() -> list[Page]:
    """All pages, README.md first."""
    names = [f"{folder}/README.md" for folder in ("inputs", "folds", "submissions")]
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [Page(path) for path in [*paths, *(ROOT / name for name in names)]]


def shell_commands(script: str) -> list[tuple[str, ...]]:
    """Return the words of every command in a script, without comments and the text of here-documents."""
    script = re.sub(r"<<-?\s*(['\"]?)(\w+)\1(.*?)\n.*?^\2$", r"\3", script, flags=re.S | re.M)
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*_words(line), ";"]:
            if word not in SEPARATORS:
                words.append(word)
                continue
            if words := _command(words):
                found.append(tuple(PLACEHOLDERS.get(each, each) for each in words))
            words = []
    return found


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    return list(lexer)


def _command(words: list[str]) -> list[str]:
    """Return the words without `do`, assignments before the command, redirections, and ellipses."""
    while words and (words[0] in ("do", "done", "time") or re.match(r"\w+=", words[0])):
        words = words[1:]
    kept, skip = [], False
    for word in words:
        if skip or word in ("…", "...", "[OPTIONS]"):
            skip = False
        elif re.fullmatch(r"[<>]+", word):
            skip = True
        else:
            kept.append(word)
    return kept


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
