#!/usr/bin/env python3
"""Makes the six picture tasks of this bench, and the pictures of the base, of what fetch.sh has unpacked.

    python prepare.py DATA

Every picture becomes 28 × 28 grey (a PNG of three equal channels, as image processors want them). What belongs together (an emoji in
all its skin tones, a font) is on one side of a split. DATA/TASK-{train,valid,test}.jsonl name the pictures with their labels; DATA/base.jsonl
has renders of two hundred characters of many scripts, none of them a digit.
"""

import collections
import gzip
import hashlib
import json
import os
import random
import struct
import sys
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 28
# Rows of a task: train, valid, test; fewer where there are fewer.
ROWS = {
    "mnist": (4000, 500, 2000), "fashion": (4000, 500, 2000), "digits": (4000, 500, 1000), "emoji": (1100, 250, 500),
    "tone": (1200, 240, 498), "clipart": (1600, 250, 450),
}
GARMENTS = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
# A group of few emoji goes with a near one.
GROUPS = {"Activities": "Objects"}
CLIPART = ["people", "food", "animals", "transportation", "tools", "office"]
# Characters of the base, and pictures of each.
CHARACTERS, RENDERS = 200, 200


def main():
    """All tasks."""
    root = Path(sys.argv[1])
    for name, rows in {"mnist": mnist, "fashion": fashion, "emoji": emoji, "tone": tone, "clipart": clipart}.items():
        write(root, name, list(rows(root)))
    faces = fonts(root)
    write(root, "digits", list(digits(faces)))
    base(root, faces)


def write(root, name, rows):
    """Splits rows (picture, label, group) by group, writes pictures and lists of them."""
    groups = collections.defaultdict(list)
    for picture, label, group in rows:
        groups[group].append((picture, label))
    order = sorted(groups, key=str)
    random.Random(name).shuffle(order)
    rest = iter(order)
    # Not beside what was unpacked: two packages have the names of tasks.
    directory = root / "pictures" / name
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    # The test first: it has its rows even where there are few.
    for part, most in reversed(list(zip(("train", "valid", "test"), ROWS[name]))):
        lines = []
        while len(lines) < most and (group := next(rest, None)) is not None:
            for picture, label in groups[group]:
                picture.convert("RGB").save(directory / f"{number}.png")
                lines.append(json.dumps({"image": f"pictures/{name}/{number}.png", "label": label}))
                number += 1
        random.Random(part).shuffle(lines)
        (root / f"{name}-{part}.jsonl").write_text("\n".join(lines) + "\n")
        print(name, part, len(lines), file=sys.stderr)


def mnist(root):
    """Digits by hand."""
    for digit in range(10):
        values = json.loads((root / f"mnist/src/digits/{digit}.json").read_text())["data"]
        for at in range(0, len(values), SIDE * SIDE):
            pixels = bytes(round(value * 255) for value in values[at : at + SIDE * SIDE])
            yield Image.frombytes("L", (SIDE, SIDE), pixels), str(digit), (digit, at)


def fashion(root):
    """Garments; 7000 of its training part."""
    stem = root / "debian/usr/share/datasets/fashion-mnist/train"
    with gzip.open(f"{stem}-images-idx3-ubyte.gz") as images, gzip.open(f"{stem}-labels-idx1-ubyte.gz") as labels:
        _, _, height, width = struct.unpack(">IIII", images.read(16))
        labels.read(8)
        for number in range(7000):
            yield Image.frombytes("L", (width, height), images.read(height * width)), GARMENTS[labels.read(1)[0]], number


def emoji_pictures(root):
    """Emoji with group, skin tone, and the emoji without tone."""
    for entry in json.loads((root / "emoji/emoji.json").read_text()):
        if not entry["has_img_google"] or entry["category"] == "Component":
            continue
        yield picture_of_emoji(root, entry["image"]), entry["category"], "none", entry["unified"]
        for tone_of, variant in entry.get("skin_variations", {}).items():
            if variant.get("has_img_google") and len(set(tone_of.split("-"))) == 1:
                yield picture_of_emoji(root, variant["image"]), entry["category"], tone_of.split("-")[0], entry["unified"]


def picture_of_emoji(root, name):
    """On white."""
    return grey(root / "emoji/img/google/64" / name)


def emoji(root):
    """Group of an emoji without tone."""
    for picture, group, shade, base_of in emoji_pictures(root):
        if shade == "none":
            yield picture, GROUPS.get(group, group), base_of


def tone(root):
    """Skin tone of those emoji that have tones."""
    rows = list(emoji_pictures(root))
    toned = {base_of for _, _, shade, base_of in rows if shade != "none"}
    for picture, _, shade, base_of in rows:
        if base_of in toned:
            yield picture, shade, base_of


def clipart(root):
    """Folder of a clip art."""
    top = root / "debian/usr/share/openclipart/png"
    seen = set()
    for folder in CLIPART:
        for path in sorted((top / folder).rglob("*.png")):
            if path.is_symlink():
                continue
            data = path.read_bytes()
            width, height = struct.unpack(">II", data[16:24])
            # Some are 29,700 pixels wide.
            if max(width, height) > 2048 or min(width, height) < 16:
                continue
            mark = hashlib.md5(data).digest()
            if mark not in seen:
                seen.add(mark)
                yield grey(path), folder, mark.hex()


def grey(path):
    """A picture on white, its longer side 28 pixels."""
    with Image.open(path) as image:
        image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    small = canvas.convert("L")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("L", (SIDE, SIDE), 255)
    square.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square


def fonts(root):
    """Noto's faces with their characters above Latin."""
    top = root / "debian/usr/share/fonts/truetype/noto"
    found = []
    for path in sorted(top.glob("*.ttf")):
        found.append((path, characters(path)))
    return found


def characters(path):
    """Characters of a font, as its table says."""
    data = path.read_bytes()
    tables = {}
    for i in range(struct.unpack(">H", data[4:6])[0]):
        tag, _, offset, _ = struct.unpack(">4sIII", data[12 + 16 * i : 28 + 16 * i])
        tables[tag] = offset
    cmap = tables[b"cmap"]
    codes = set()
    for i in range(struct.unpack(">H", data[cmap + 2 : cmap + 4])[0]):
        _, _, offset = struct.unpack(">HHI", data[cmap + 4 + 8 * i : cmap + 12 + 8 * i])
        at = cmap + offset
        kind = struct.unpack(">H", data[at : at + 2])[0]
        if kind == 4:
            count = struct.unpack(">H", data[at + 6 : at + 8])[0] // 2
            ends = struct.unpack(f">{count}H", data[at + 14 : at + 14 + 2 * count])
            starts = struct.unpack(f">{count}H", data[at + 16 + 2 * count : at + 16 + 4 * count])
            codes.update(code for start, end in zip(starts, ends) if start != 0xFFFF for code in range(start, end + 1))
        elif kind == 12:
            count = struct.unpack(">I", data[at + 12 : at + 16])[0]
            for j in range(count):
                start, end, _ = struct.unpack(">III", data[at + 16 + 12 * j : at + 28 + 12 * j])
                codes.update(range(start, end + 1))
    return {code for code in codes if code > 0x2AF}


def digits(faces):
    """Digits of a dozen scripts, by their value; fonts are on one side of a split."""
    sets = collections.defaultdict(list)
    for path, codes in faces:
        for code in codes:
            if unicodedata.category(chr(code)) == "Nd" and unicodedata.digit(chr(code)) == 0 and all(code + i in codes for i in range(10)):
                sets[code].append(path)
    # Scripts that many fonts have.
    chosen = sorted((code for code in sets if len(sets[code]) >= 4), key=lambda code: (-len(sets[code]), code))[:12]
    rng = random.Random("digits")
    pairs = [(code, path) for code in chosen for path in sets[code]]
    each = -(-sum(ROWS["digits"]) // (10 * len(pairs))) + 1
    for code, path in pairs:
        for value in range(10):
            for _ in range(each):
                picture = render(chr(code + value), path, rng)
                if picture:
                    yield picture, str(value), path.name


def base(root, faces):
    """Characters that several fonts have, digits not among them."""
    of = collections.defaultdict(list)
    for path, codes in faces:
        for code in codes:
            if unicodedata.category(chr(code)) in ("Lo", "Ll", "Lu"):
                of[code].append(path)
    rng = random.Random("base")
    common = sorted(code for code in of if len(of[code]) >= 4)
    rng.shuffle(common)
    directory = root / "base-pictures"
    directory.mkdir(exist_ok=True)
    lines, found = [], 0
    for code in common:
        if found == CHARACTERS:
            break
        pictures = [render(chr(code), rng.choice(of[code]), rng) for _ in range(RENDERS)]
        if not all(pictures):
            continue
        for number, picture in enumerate(pictures):
            name = f"base-pictures/{found}-{number}.png"
            picture.convert("RGB").save(root / name)
            lines.append(json.dumps({"image": name, "label": f"u{code:04x}"}))
        found += 1
    rng.shuffle(lines)
    (root / "base.jsonl").write_text("\n".join(lines) + "\n")
    print("base", found, len(lines), file=sys.stderr)


def render(character, path, rng):
    """A character, turned, sheared, moved a little, white on black; nothing if the font draws nothing."""
    size = rng.randint(34, 52)
    canvas = Image.new("L", (96, 96))
    ImageDraw.Draw(canvas).text((48, 48), character, fill=255, font=font(path, size), anchor="mm")
    if canvas.getbbox() is None:
        return None
    angle = rng.uniform(-12, 12)
    shear = rng.uniform(-0.15, 0.15)
    canvas = canvas.rotate(angle, Image.Resampling.BILINEAR)
    canvas = canvas.transform((96, 96), Image.Transform.AFFINE, (1, shear, -48 * shear, 0, 1, 0), Image.Resampling.BILINEAR)
    left, top = 16 + rng.randint(-6, 6), 16 + rng.randint(-6, 6)
    return canvas.crop((left, top, left + 64, top + 64)).resize((SIDE, SIDE), Image.Resampling.BOX)


FONTS = {}


def font(path, size):
    """A font, opened once."""
    if (path, size) not in FONTS:
        FONTS[path, size] = ImageFont.truetype(str(path), size)
    return FONTS[path, size]


if __name__ == "__main__":
    os.umask(0o022)
    main()
