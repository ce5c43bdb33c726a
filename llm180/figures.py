"""Figures that read in light and dark, on a phone, without sight, and that move without a kernel.

``show(fig, alt=...)`` displays a figure with its alternative text. ``explore`` puts
a control beside a figure: live (ipywidgets) in Jupyter, and on the static page a
slider over frames that were drawn when the page was executed.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart under every common colour blindness; yellow left out: too pale on white.
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "amber": "#E69F00",
    "sky": "#56B4E9",
    "black": "#222222",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT, DPI = 7.0, 4.0, 130
_serial = itertools.count(1)


def use_style() -> None:
    """Set matplotlib's defaults for the book: size, palette, grid, white ground."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "figure.figsize": (WIDTH, HEIGHT),
            "figure.dpi": DPI,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=list(COLORS.values())),
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "grid.alpha": 0.25,
            "font.size": 11,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "image.cmap": "viridis",
            "svg.hashsalt": "llm180",
        }
    )


def show(fig: Figure, alt: str, width: int = 700) -> None:
    """Display a figure as an image with its alternative text, then close it.

    Parameters
    ----------
    alt:
        What the figure shows, for a reader who does not see it: the axes, the course
        of the curves, what to conclude. Must not be empty.
    width:
        Its width on the page in CSS pixels; it shrinks on a narrow screen.
    """
    from IPython.display import HTML, display

    display(HTML(_image(_png(fig), alt, width)))


def explore(
    draw: Callable[[Any], Any], *, alt: str, static: bool, fps: float = 2.0, width: int = 700, **values: Sequence[Any]
) -> None:
    """Show ``draw(value)`` with a control over ``values`` (one keyword: its name and the values it takes).

    ``draw`` makes a matplotlib figure, or returns a string of HTML or SVG. With
    ``static=False`` an ipywidgets slider redraws on each change; with ``static=True``
    every frame is drawn now and a slider with a play button shows them, with no
    kernel and nothing loaded from elsewhere.
    """
    if len(values) != 1:
        raise ValueError(f"explore takes one control, as k=range(1, 9); got {sorted(values) or 'none'}")
    if not alt.strip():
        raise ValueError("explore needs alt=...: what the figure shows, for a reader who does not see it")
    from IPython.display import HTML, display

    (name, chosen), *_ = values.items()
    options = list(chosen)
    if static:
        frames = [_frame(draw(value), alt, width) for value in options]
        display(HTML(_player(name, options, frames, alt, fps)))
        return
    import ipywidgets

    slider = ipywidgets.SelectionSlider(
        options=[(_label(value), value) for value in options],
        description=name.replace("_", " "),
        continuous_update=False,
        style={"description_width": "initial"},
    )
    area = ipywidgets.Output()

    def redraw(*_: Any) -> None:
        with area:
            area.clear_output(wait=True)
            display(HTML(_frame(draw(slider.value), alt, width)))

    slider.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([slider, area]))


def _label(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _frame(drawn: Any, alt: str, width: int) -> str:
    """One frame as HTML: of a figure, or the string that ``draw`` returned."""
    if isinstance(drawn, str):
        return drawn
    if drawn is None:
        import matplotlib.pyplot as plt

        drawn = plt.gcf()
    return _image(_png(drawn, small=True), alt, width)


def _png(fig: Figure, small: bool = False) -> str:
    """The figure as base64 PNG; the figure is closed. ``small``: for frames, of which a page has many."""
    import matplotlib.pyplot as plt
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None}, dpi=100 if small else "figure")
    plt.close(fig)
    if small:
        frame = Image.open(buffer).convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE)
        buffer = io.BytesIO()
        frame.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _image(png: str, alt: str, width: int) -> str:
    if not alt.strip():
        raise ValueError("a figure needs alt=...: what it shows, for a reader who does not see it")
    return (
        f'<img class="llm180-figure" alt="{html.escape(alt, quote=True)}" '
        f'style="width:{width}px;max-width:100%;height:auto;background:#fff" '
        f'src="data:image/png;base64,{png}">'
    )


_PLAYER = """<div class="llm180-player" id="%(id)s" role="group" aria-label="%(alt)s">
<div class="llm180-frames">%(frames)s</div>
<div class="llm180-controls" style="display:flex;gap:.6em;align-items:center;max-width:700px">
<button type="button" aria-label="play or pause" style="min-width:2.6em;min-height:2.2em">▶</button>
<input type="range" min="0" max="%(last)d" value="0" step="1" style="flex:1" aria-label="%(name)s">
<output style="min-width:7em;font-variant-numeric:tabular-nums">%(name)s = %(first)s</output>
</div>
<script>
(function () {
  var root = document.getElementById("%(id)s"), labels = %(labels)s;
  var frames = root.querySelectorAll(".llm180-frames > div"), range = root.querySelector("input");
  var out = root.querySelector("output"), button = root.querySelector("button"), timer = null;
  function show(i) {
    frames.forEach(function (f, k) { f.style.display = k === i ? "" : "none"; });
    range.value = i; out.textContent = "%(name)s = " + labels[i];
  }
  function stop() { clearInterval(timer); timer = null; button.textContent = "▶"; }
  range.addEventListener("input", function () { stop(); show(+range.value); });
  button.addEventListener("click", function () {
    if (timer) { stop(); return; }
    if (+range.value === frames.length - 1) show(0);
    button.textContent = "❚❚";
    timer = setInterval(function () {
      var next = +range.value + 1;
      if (next >= frames.length) { stop(); return; }
      show(next);
    }, %(pause)d);
  });
})();
</script>
</div>"""


def _player(name: str, options: list[Any], frames: list[str], alt: str, fps: float) -> str:
    """A slider and a play button over pre-rendered frames; plain HTML and a few lines of script."""
    labels = [_label(value) for value in options]
    shown = html.escape(name.replace("_", " "))
    return _PLAYER % {
        "id": f"llm180-player-{next(_serial)}",
        "alt": html.escape(alt, quote=True),
        "frames": "".join(
            f"<div>{f}</div>" if i == 0 else f'<div style="display:none">{f}</div>' for i, f in enumerate(frames)
        ),
        "last": len(frames) - 1,
        "name": shown,
        "first": html.escape(labels[0]),
        "labels": json.dumps(labels, ensure_ascii=False).replace("</", "<\\/"),
        "pause": int(1000 / fps),
    }
