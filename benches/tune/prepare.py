#!/usr/bin/env python3
"""Makes the two suites of tasks as JSONL from the real data that fetch.sh unpacks. Standard library only; always the same bytes.

    python prepare.py DATA

DATA/r3, for a decoder, rows of `prompt` and `completion`:

| task      | prompt → completion                                           | rows never split         | expected                 |
|-----------|---------------------------------------------------------------|--------------------------|--------------------------|
| languages | line of the Declaration of Human Rights → one of 12 languages | paragraph, all languages | fast, small, overfits    |
| gloss     | definition of a noun → one of 12 supersenses                  | synsets of one head word | medium                   |
| word      | noun → one of 12 supersenses                                  | words of one head word   | slow, hardly generalises |
| tags      | a few words of prose → their word classes                     | document                 | fast start, long tail    |
| phonemes  | spelling → phonemes                                           | words of one beginning   | slow, many tokens        |

DATA/r3/text.jsonl: rows of `text` to pretrain on, from documents and synsets of the training side alone.

DATA/r2, for an encoder, rows of `text` and `label`: `sense` (gloss → supersense), `genre` (sentences of the Brown corpus → one of
five kinds of prose, by document), `review` (film review → positive, negative), `mail` (subject and beginning → spam, ham).

Every task has `train`, `valid` and `test`. A row's side follows from a hash of its group, so it depends on nothing else; equal
texts are taken once, and texts with several labels not at all.
"""

import argparse
import collections
import hashlib
import json
import random
import re
from pathlib import Path

import sources

SIDES = ("train", "valid", "test")
# Rows of each side, at most.
R3_ROWS = {"train": 6000, "valid": 300, "test": 300}
R2_ROWS = {"train": 1600, "valid": 200, "test": 300}
# Characters of a prompt: they must fit into 64 tokens of a vocabulary of 2,048.
PROMPT = 90
# Characters of a text to pretrain on, and how many there are.
TEXT = 160
TEXTS = 36_000

GENRES = {
    "news": "press", "editorial": "press", "reviews": "press", "learned": "learned", "government": "learned",
    "adventure": "fiction", "fiction": "fiction", "mystery": "fiction", "romance": "fiction", "science_fiction": "fiction",
    "humor": "fiction", "belles_lettres": "essay", "lore": "essay", "religion": "essay", "hobbies": "hobbies",
}


def main():
    """Writes both suites and prints their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="where fetch.sh has unpacked")
    data = parser.parse_args().data
    r3 = {"languages": language, "gloss": gloss, "word": word, "tags": tags, "phonemes": phonemes}
    for name, task in r3.items():
        write(data / "r3", name, sides(task(data), R3_ROWS), ("prompt", "completion"))
    lines = text(data)
    write_lines(data / "r3/text.jsonl", [{"text": line} for line in lines])
    print(f"r3/text: {len(lines)} rows, {sum(map(len, lines))} characters")
    for name, task in {"sense": gloss, "genre": genre, "review": review, "mail": mail}.items():
        write(data / "r2", name, sides(task(data, bare=True), R2_ROWS), ("text", "label"))


def side(group):
    """train, valid or test: 80, 10 and 10 %."""
    number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "little") % 10
    return SIDES[max(0, number - 7)]


def sides(rows, most):
    """(input, answer, group) → the rows of each side, without equal or ambiguous ones, shuffled, answers balanced if they are few."""
    answers = collections.defaultdict(set)
    for given, answer, _ in rows:
        answers[given].add(answer)
    out, seen = {name: [] for name in SIDES}, set()
    for given, answer, group in rows:
        if len(answers[given]) == 1 and given not in seen:
            seen.add(given)
            out[side(group)].append((given, answer))
    return {name: drawn(found, most[name]) for name, found in out.items()}


def drawn(rows, most):
    """At most so many rows; if answers are few, none has more than twice its even part."""
    random.Random(0).shuffle(rows)
    kinds = len({answer for _, answer in rows})
    limit = most if kinds > 50 else 2 * most // kinds
    kept, counts = [], collections.Counter()
    for given, answer in rows:
        if counts[answer] < limit:
            counts[answer] += 1
            kept.append((given, answer))
    return kept[:most]


def write(directory, name, parts, keys):
    """One file per side."""
    for part, rows in parts.items():
        write_lines(directory / f"{name}-{part}.jsonl", [dict(zip(keys, row)) for row in rows])
    kinds = collections.Counter(answer for _, answer in parts["train"])
    share = kinds.most_common(1)[0][1] / len(parts["train"])
    sizes = ", ".join(f"{len(rows)} {part}" for part, rows in parts.items())
    print(f"{directory.name}/{name}: {sizes}; {len(kinds)} answers, the most frequent {share:.0%}")


def write_lines(path, rows):
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def language(data):
    """Lines of at most 60 characters, cut between words."""
    rows = []
    for paragraph, name, number in sources.paragraphs(data):
        for line in lines(paragraph, 60):
            if len(line) >= 25:
                rows.append((f"language of: {line}\n", name, f"paragraph {number}"))
    return rows


def lines(text, width):
    """A text as lines of whole words."""
    out, line = [], ""
    for item in text.split():
        if line and len(line) + 1 + len(item) > width:
            out.append(line)
            line = ""
        line = f"{line} {item}".strip()
    return [*out, line]


def head(words):
    """What a noun's family is called: the last part of its first word."""
    return re.split(r"[ -]", words[0].lower())[-1]


def gloss(data, bare=False):
    """Definitions."""
    rows = []
    for definition, sense, words in sources.synsets(data):
        short = shortened(definition, PROMPT)
        rows.append((short if bare else f"kind of: {short}\n", sense, head(words)))
    return rows


def shortened(text, most):
    """The first words of a text."""
    return text if len(text) <= most else text[: most + 1].rsplit(" ", 1)[0]


def word(data):
    """Nouns of letters alone. Those with several supersenses are ambiguous, and fall out with `sides`."""
    rows = []
    for _, sense, words in sources.synsets(data):
        for noun in words:
            if re.fullmatch(r"[A-Za-z][a-z]+( [a-z]+)?", noun):
                rows.append((f"kind of word: {noun}\n", sense, head([noun])))
    return rows


def tags(data):
    """Three to seven neighbouring words of a sentence."""
    rows, random_length = [], random.Random(1)
    for document, _, words in sources.sentences(data):
        length = random_length.randint(3, 7)
        start = random_length.randrange(max(1, len(words) - length))
        part = words[start : start + length]
        if len(part) == length:
            said = " ".join(item for item, _ in part)
            classes = " ".join(sources.word_class(tag) for _, tag in part)
            rows.append((f"classes of: {said}\n", classes, document))
    return rows


def phonemes(data):
    """Spellings of at most ten letters; families share their first four."""
    rows = sources.pronunciations(data)
    return [(f"sounds of: {said}\n", sounds, said[:4]) for said, sounds in rows if 3 <= len(said) <= 10]


def text(data):
    """Sentences and glosses of the training side, mixed. No answer of a task is among them."""
    rows = []
    for document, _, words in sources.sentences(data):
        if side(document) == "train":
            rows += lines(" ".join(item for item, _ in words), TEXT)
    for definition, _, words in sources.synsets(data):
        if side(head(words)) == "train":
            rows.append(shortened(f"{words[0]}: {definition}", TEXT))
    rows = [row for row in dict.fromkeys(rows) if len(row) >= 30]
    random.Random(2).shuffle(rows)
    return rows[:TEXTS]


def genre(data, bare=True):
    """Two neighbouring sentences of a document."""
    del bare
    rows, before = [], {}
    for document, kind, words in sources.sentences(data):
        said = " ".join(item for item, _ in words)
        last = before.pop(document, None)
        if last is None:
            before[document] = said
        elif len(last) + len(said) >= 100:
            rows.append((shortened(f"{last} {said}", 300), GENRES[kind], document))
    return rows


def review(data, bare=True):
    """Reviews with a clear rating."""
    del bare
    rows = sources.reviews(data)
    return [(said, "positive" if rating > 0 else "negative", said) for said, rating in rows if abs(rating) > 0.5]


def mail(data, bare=True):
    """Subjects and the first 200 characters. Mails of one subject stay together: replies quote each other."""
    del bare
    rows = []
    for spam, subject, body in sources.mails(data):
        bare_subject = re.sub(r"^((re|fwd?|\[[^\]]*\])[: ]*)+", "", subject.lower()).strip()
        said = shortened(f"{subject}: {body}", 200 + len(subject))
        rows.append((said, "spam" if spam else "ham", bare_subject or body[:40]))
    return rows


if __name__ == "__main__":
    main()
