"""Tables for terminals, readable as Markdown too."""


def table(head, rows):
    """Left-aligned first column, right-aligned others."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    align = lambda row: [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
    line = lambda row: "| " + " | ".join(align(row)) + " |"
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def number(value, digits=2):
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def mb(value):
    """Bytes as MB (10⁶), or a dash."""
    return "–" if value is None else f"{value / 1e6:.0f}"
