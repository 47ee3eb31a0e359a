"""Validation losses over steps as small multiples in SVG: one drawing per task, one line per balancer, the mean over seeds with a band
of one standard deviation. Standard library only."""

import statistics

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 320, 210, 44, 26, 18, 30
COLOURS = ["#4269d0", "#d1495b", "#2a9d8f", "#b07d00", "#7b4ba0", "#555555"]
DASHES = ["", "6 3", "2 2", "8 3 2 3", "1 3", "10 4"]


def svg(runs, tasks):
    """`runs`: balancer → list of runs with `curves[task] = [(step, loss, accuracy)]`. The text of an SVG file."""
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    width, height = columns * WIDTH, rows * HEIGHT + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, balancer in enumerate(runs):
        x = 12 + number * 110
        parts.append(
            f'<path d="M{x} 12H{x + 26}" stroke="{COLOURS[number % 6]}" stroke-dasharray="{DASHES[number % 6]}" stroke-width="2"/>'
            f'<text x="{x + 32}" y="16">{balancer}</text>'
        )
    for number, task in enumerate(tasks):
        dx, dy = (number % columns) * WIDTH, 26 + (number // columns) * HEIGHT
        parts.append(f'<g transform="translate({dx} {dy})">{drawing(runs, task)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def drawing(runs, task):
    """One task."""
    lines = {balancer: means(of, task) for balancer, of in runs.items()}
    points = [point for line in lines.values() for point in line[1:]] or [(0, 1, 0)]
    last = max(step for step, _, _ in points)
    high = max(mean + spread for _, mean, spread in points)
    low = min(mean - spread for _, mean, spread in points)
    span = (high - low) or 1.0

    def x(step):
        return round(LEFT + step / (last or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(loss):
        return round(TOP + (high - min(loss, high)) / span * (HEIGHT - TOP - BOTTOM), 1)

    text = [f'<text x="{LEFT}" y="16" font-weight="bold">{task}</text>']
    for part in range(4):
        value = low + span * part / 3
        text.append(
            f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 5}" y="{y(value) + 4}" text-anchor="end">{value:.2f}</text>'
        )
    for step in (0, last // 2, last):
        text.append(f'<text x="{x(step)}" y="{HEIGHT - 12}" text-anchor="middle">{step}</text>')
    for number, line in enumerate(lines.values()):
        colour, dash = COLOURS[number % 6], DASHES[number % 6]
        # What comes before training would be all that one sees.
        shown = line[1:]
        band = [(step, mean + spread) for step, mean, spread in shown]
        band += [(step, mean - spread) for step, mean, spread in reversed(shown)]
        path = "L".join(f"{x(step)} {y(loss)}" for step, loss in band)
        text.append(f'<path d="M{path}Z" fill="{colour}" opacity="0.12"/>')
        path = "L".join(f"{x(step)} {y(mean)}" for step, mean, _ in shown)
        text.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"/>')
    return "".join(text)


def means(runs, task):
    """(step, mean, standard deviation) over the seeds."""
    steps = [step for step, _, _ in runs[0].curves[task]]
    losses = [[loss for _, loss, _ in run.curves[task]] for run in runs]
    spread = statistics.stdev if len(runs) > 1 else (lambda _: 0.0)
    return [(step, statistics.fmean(of), spread(of)) for step, *of in zip(steps, *losses)]
