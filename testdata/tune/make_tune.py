"""Two tiny tasks for the tokenizer of `mergekit/models`: `python make_tune.py` beside this file. Any Python 3."""

import json
from pathlib import Path

HERE = Path(__file__).parent
LETTERS = [(a, b) for a in "abcdefghijkl" for b in "mnopqrstuv"]


def write(name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / f"{name}.jsonl").write_text(text)


# The letter that follows, and two letters in the other order.
write("next", [{"prompt": f"next {b}{a} ", "completion": chr(ord(a) + 1)} for a, b in LETTERS])
write("turn", [{"prompt": f"turn {a}{b} ", "completion": b + a} for a, b in LETTERS])
