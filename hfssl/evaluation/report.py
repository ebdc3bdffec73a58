"""Self-contained HTML pages: text, tables and figures in one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from hfssl.files import write_whole

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8eb); --soft: light-dark(#5b6570, #9aa4af);
  --line: light-dark(#d8dee4, #343b43); --paper: light-dark(#ffffff, #15181c); --card: light-dark(#f6f8fa, #1d2126); }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width:
60rem;
  padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p.lead { color: var(--soft); margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { color: var(--soft); font-size: .9rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap:
anywhere; }
"""


class Page:
    """Collects the parts of a page in order. All text is escaped."""

    def __init__(self, title: str, lead: str = ""):
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>"]
        if lead:
            self.parts.append(f'<p class="lead">{html.escape(lead)}</p>')

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns whose cells are all numbers (or empty) stand to the right."""
        numeric = [
            bool(rows) and all(_is_number(row[i]) or row[i] in ("", None) for row in rows) for i in range(len(header))
        ]

        def cells(tag: str, values: Sequence[object]) -> str:
            kinds = [' class="number"' if right else "" for right in numeric]
            texts = [html.escape("" if value is None else str(value)) for value in values]
            return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in zip(kinds, texts, strict=True))

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
        self.parts.append(
            '<div class="scroll"><table><thead><tr>'
            f"{cells('th', header)}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def figure(self, figure, caption: str) -> None:
        """Takes a matplotlib figure, as a PNG inside the page."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
        data = base64.b64encode(buffer.getvalue()).decode()
        text = html.escape(caption)
        self.parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )

    def write(self, path: str | Path) -> None:
        write_whole(
            path,
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(self.parts)
            + "\n</body></html>\n",
        )


def loss_curves(curves: dict[str, Sequence[tuple[float, float]]], anchors: dict[str, tuple[float, str]] | None = None):
    """A matplotlib figure with one panel a model: (step, loss) points, and a dashed line where an anchor is given."""
    from matplotlib.figure import Figure

    anchors = anchors or {}
    figure = Figure(figsize=(3.6 * len(curves), 2.8), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot([step for step, _ in points], [loss for _, loss in points], color="#1f6feb")
        if name in anchors:
            value, label = anchors[name]
            axes.axhline(value, color="#8b949e", linestyle="--", linewidth=1)
            axes.annotate(label, (0.98, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel("loss (nats)", fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def _is_number(value: object) -> bool:
    if isinstance(value, (int, float)):
        return True
    try:
        float(str(value).split(" ")[0].split("±")[0])
    except ValueError:
        return False
    return True
