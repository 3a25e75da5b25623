"""Charts as SVG files that need nothing to be shown, on light and dark pages."""
import math
from xml.sax.saxutils import escape

COLOURS = ["#2f6fdb", "#d97a1a", "#2b9a66", "#b4488f", "#7a6ff0", "#8a8f98"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 70, 20, 64, 56
STYLE = ("text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:16px;font-weight:600}.small{font-size:11px;fill:#666}"
         "line{stroke:#8888;stroke-width:1}.grid{stroke:#8883}rect.page{fill:#fff}"
         "@media(prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#aaa}rect.page{fill:#16181d}}")


def number(x):
    """As people write it: 12000 -> 12k."""
    if x >= 1e6:
        return f"{x / 1e6:g}M"
    return f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}"


def ticks(most):
    """Round numbers from 0 past `most`."""
    step = 10 ** math.floor(math.log10(most / 4)) if most > 0 else 1
    step = next(step * f for f in (1, 2, 2.5, 5, 10, 20) if step * f * 5 >= most)
    return [i * step for i in range(int(math.ceil(most / step - 1e-9)) + 1)]


class Page:
    """The frame of a chart: title, note, legend, and an axis of values from 0."""

    def __init__(self, title, note, unit, names, most):
        self.ticks = ticks(most)
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
                      f"<style>{STYLE}</style>", f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>', self.text(LEFT, 24, title, "title")]
        x = LEFT
        for name, colour in zip(names, COLOURS):
            self.parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>' + self.text(x + 17, 47, name))
            x += 30 + 7.2 * len(name)
        for tick in self.ticks:
            y = self.y(tick)
            self.parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>' + self.text(LEFT - 8, y + 4, number(tick), anchor="end"))
        self.parts.append(f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(unit)}</text>')
        self.parts.append(self.text(12, HEIGHT - 8, note, "small"))

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / self.ticks[-1]

    @staticmethod
    def text(x, y, text, kind="", anchor="start"):
        return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(str(text))}</text>'

    def save(self, path):
        path.write_text("\n".join(self.parts) + "\n</svg>\n")


def bars(path, title, note, unit, cases, series):
    """Groups of bars: `series` is {name: [value or none, one a case]}."""
    page = Page(title, note, unit, series, max(v for values in series.values() for v in values if v))
    group = (WIDTH - LEFT - RIGHT) / len(cases)
    width = group * 0.8 / len(series)
    for i, case in enumerate(cases):
        x = LEFT + group * (i + 0.1)
        for values, colour in zip(series.values(), COLOURS):
            if values[i]:
                y = page.y(values[i])
                page.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.92:.1f}" height="{page.y(0) - y:.1f}" fill="{colour}"/>'
                                  + page.text(x + width * 0.46, y - 4, f"{values[i]:.0f}", "small", "middle"))
            x += width
        page.parts.append(page.text(LEFT + group * (i + 0.5), HEIGHT - BOTTOM + 18, case, anchor="middle"))
    page.save(path)


def lines(path, title, note, unit, x_name, xs, series):
    """Lines over a logarithmic axis: `series` is {name: [value, one an x]}."""
    page = Page(title, note, unit, series, max(v for values in series.values() for v in values if v))
    low, high = math.log(min(xs)), math.log(max(xs))
    place = lambda x: LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * ((math.log(x) - low) / (high - low) if high > low else 0.5)
    for x in xs:
        page.parts.append(page.text(place(x), HEIGHT - BOTTOM + 18, number(x), anchor="middle"))
    page.parts.append(page.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 34, x_name, "small", "middle"))
    for values, colour in zip(series.values(), COLOURS):
        points = [(place(x), page.y(v)) for x, v in zip(xs, values) if v is not None]
        page.parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        page.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
    page.save(path)
