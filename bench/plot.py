"""The main rows as bars, in SVG that we write ourselves: no library, and legible in light and dark.

The rule a reader could break: the picture carries its own ground and ink for both schemes, because what shows it may be dark while
the reader's system is light. A bar starts at zero, and each panel has a scale of its own.
"""

from html import escape
from statistics import median

from bench.figures import FIGURES, Figure
from bench.report import Report

_SHOWN = (
    ("call_1k_32_us", "CPU µs per request, 1 kB"),
    ("call_32k_32_us", "CPU µs per request, 32 kB"),
    ("event_100_us", "CPU µs per event, 100 streams"),
    ("added_p50_1k_us", "added latency p50, µs"),
    ("first_added_p50_10_us", "first token added p50, µs"),
    ("rss_after_mib", "RSS after the load, MiB"),
)
_COLUMNS = 3
_PANEL_WIDTH, _PANEL_HEIGHT = 270, 128
_MARGIN, _TOP = 20, 52
_LABEL_WIDTH, _VALUE_WIDTH = 76, 46
_BAR_HEIGHT, _BAR_STEP = 18, 27
_STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de }  .ink { fill: #1f2328 }  .soft { fill: #59636e }  .axis { stroke: #818b98 }
  .spread { stroke: #1f2328; stroke-width: 1.5 }
  .limit { fill: #8c959f }  .baseline { fill: #c98a2b }  .subject { fill: #2563c9 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }  .ink { fill: #f0f6fc }  .soft { fill: #9198a1 }  .axis { stroke: #656c76 }
    .spread { stroke: #f0f6fc }
    .limit { fill: #7d8590 }  .baseline { fill: #d29922 }  .subject { fill: #4493f8 }
  }
  text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }  .title { font-weight: 600 }
"""


def plot(report: Report) -> str:
    """The whole file. A row that was not measured is left out."""
    known = {figure.key: figure for figure in FIGURES}
    panels = [(known[key], title) for key, title in _SHOWN if report.values[key][report.subject]]
    rows = -(-len(panels) // _COLUMNS)
    width, height = 2 * _MARGIN + _COLUMNS * _PANEL_WIDTH, _TOP + rows * _PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{escape(', '.join(report.names))}: less is better in every panel</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        _text(_MARGIN, 28, "Cost of being there", "ink title"),
        _text(width - _MARGIN, 28, "less is better: medians, with a line from the least round to the most", "soft", anchor="end"),
    ]
    for at, (figure, title) in enumerate(panels):
        left, top = _MARGIN + at % _COLUMNS * _PANEL_WIDTH, _TOP + at // _COLUMNS * _PANEL_HEIGHT
        parts += _panel(report, figure, title, left, top)
    return "\n".join((*parts, "</svg>", ""))


def _panel(report: Report, figure: Figure, title: str, left: float, top: float) -> list[str]:
    zero, room = left + _LABEL_WIDTH, _PANEL_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH - _MARGIN
    bars = [(name, values) for name in report.names if (values := report.values[figure.key][name])]
    scale = room / max(1e-9, *(median(values) for _, values in bars))
    parts = [_text(left, top + 12, title, "ink title")]
    kinds = {report.limit: "limit", report.baseline: "baseline"}
    for at, (name, values) in enumerate(bars):
        y, kind = top + 24 + at * _BAR_STEP, kinds.get(name, "subject")
        middle, length = y + _BAR_HEIGHT / 2, max(1.0, median(values) * scale)
        low, high = (min(max(0.0, value * scale), room + _MARGIN / 2) for value in (min(values), max(values)))
        parts += [
            _text(zero - 6, middle + 4, name, "ink" if kind == "subject" else "soft", anchor="end"),
            f'<rect class="{kind}" x="{zero}" y="{y}" width="{length:.1f}" height="{_BAR_HEIGHT}" rx="2"/>',
            f'<path class="spread" d="M{zero + low:.1f} {middle}H{zero + high:.1f}" fill="none"/>',
            _text(zero + max(length, high) + 5, middle + 4, f"{median(values):.{figure.digits}f}", "ink"),
        ]
    foot = top + 24 + (len(bars) - 1) * _BAR_STEP + _BAR_HEIGHT
    parts.append(f'<path class="axis" d="M{zero} {top + 20}V{foot + 4}" fill="none"/>')
    return parts


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
