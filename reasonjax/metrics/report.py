"""One self-contained HTML file a run: tables, figures and samples; nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.lead { color: #55606a; margin-top: 0 }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .25rem .8rem .25rem 0;
  text-align: left; border-bottom: 1px solid #e3e7ea; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.figures figure { display: inline-block; width: 48%; vertical-align: top; margin: 0 1% 1.5rem 0 }
.figures figure:first-child { width: 76% } .figures img { width: 100% }
@media (max-width: 50rem) { .figures figure, .figures figure:first-child { width: 100% } }
figcaption { color: #55606a; font-size: .85rem; max-width: 38rem }
code, .response { font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere }
.right { color: #1d7a3a } .wrong { color: #b3261e } details summary { cursor: pointer }
.think { color: #6b4fa0 }
"""


class Report:
  """Collects sections and writes them as one page."""

  def __init__(self, title: str, lead: str):
    """Args:
    title: heading.
    lead: one sentence below it.
    """
    self._title = title
    self._parts = [f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead)}</p>"]

  def heading(self, text: str) -> None:
    """Starts a section."""
    self._parts.append(f"<h2>{html.escape(text)}</h2>")

  def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers are set right."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    self._parts.append(f"<table><tr>{head}</tr>{body}</table>")

  def figures(self, figures: Mapping[str, Figure]) -> None:
    """Figures side by side, each above its caption; the first has a row of its own."""
    images = "".join(
      f"<figure><img alt='{html.escape(caption)}' src='{_data_url(figure)}'>"
      f"<figcaption>{html.escape(caption)}</figcaption></figure>"
      for caption, figure in figures.items()
    )
    self._parts.append(f"<div class=figures>{images}</div>")

  def samples(self, samples: Sequence[tuple[str, str, str, bool]]) -> None:
    """Responses in a table: problem, who answered, response, whether it is right."""
    rows = []
    for prompt, who, response, right in samples:
      mark = "<span class=right>right</span>" if right else "<span class=wrong>wrong</span>"
      rows.append(
        f"<tr><td><code>{html.escape(prompt)}</code></td><td>{html.escape(who)}</td>"
        f"<td class=response>{_highlight(response)}</td><td>{mark}</td></tr>"
      )
    head = "<tr><th>problem</th><th>model</th><th>response</th><th></th></tr>"
    self._parts.append(f"<table>{head}{''.join(rows)}</table>")

  def folded(self, title: str, text: str) -> None:
    """Long text that opens on a click."""
    self._parts.append(
      f"<details><summary>{html.escape(title)}</summary><code>{html.escape(text)}</code></details>"
    )

  def write(self, path: str | Path) -> None:
    """Writes the page."""
    page = (
      f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(self._title)}</title>"
      f"<style>{_STYLE}</style><body>{''.join(self._parts)}</body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _cell(value: Any) -> str:
  if isinstance(value, int | float) and not isinstance(value, bool):
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
    if isinstance(value, float) and abs(value) >= 1000:
      text = f"{value:,.0f}"
    return f"<td class=number>{text}</td>"
  return f"<td>{html.escape(str(value))}</td>"


def _highlight(response: str) -> str:
  """The response with its reasoning, if it has a whole think block, coloured."""
  block = re.compile(r"(&lt;think&gt;.*?&lt;/think&gt;)", re.DOTALL)
  return block.sub(r"<span class=think>\1</span>", html.escape(response), count=1)


def _data_url(figure: Figure) -> str:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
