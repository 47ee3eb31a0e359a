"""Writes scalars.json: how PyYAML reads plain scalars. Ran with Python 3.11.7 and PyYAML 6.0.3.

Each row is [text, type, value]; floats as the bits of an IEEE double in hexadecimal."""

import json
import struct
import sys
from pathlib import Path

import yaml

TEXTS = """
~ null Null NULL nULL yes Yes YES yEs no No NO true True TRUE tRUE false False FALSE on On ON off Off OFF y n Y N
0 1 -1 +1 00 0_ 01 07 08 09 010 -010 0o17 0O17 0b0 0b101 0b12 0b1_0 0x1F 0x1f 0xfg 0X1F -0x10 1_000 1__0 1_ _1 12_34_
1:30 1:60 1:5:07 01:30 -1:30 1:30.5 1:5:07.25 -1:30.5 1:300 1_0:30 1:30. 0:30 00:30.5
0.5 .5 -.5 +.5 5. -5. 1.0 -1.5 +1.5 1_0.5_0 ._5 .5_ 1e5 1e-5 1E5 1.0e5 1.0e+5 1.0e-5 1.e+3 .5e-3 .5e3 1.5E+10 1.0e+ 1.5e-400
.inf -.inf +.inf .Inf .INF .iNF inf -inf .nan .NaN .NAN .Nan nan -.nan +.nan . .. - + +- 1.2.3 1.2e 1-2 a1 1a = 1.5_e+3 1._5
0.30000000000000004 123456789.123456789 1.7976931348623157e+308
""".split()


def row(text):
    value = yaml.safe_load(text) if text not in ("-", "=") else text
    if value is None:
        return [text, "null", ""]
    if isinstance(value, bool):
        return [text, "bool", str(value).lower()]
    if isinstance(value, int):
        return [text, "int", str(value)]
    if isinstance(value, float):
        return [text, "float", "nan" if value != value else struct.pack(">d", value).hex()]
    assert value == text, (text, value)
    return [text, "text", text]


rows = [row(t) for t in TEXTS]
lines = ",\n".join(json.dumps(r) for r in rows)
(Path(__file__).parent / "scalars.json").write_text(f"[\n{lines}\n]\n")
print(len(rows), "scalars; Python", sys.version.split()[0], "PyYAML", yaml.__version__)
