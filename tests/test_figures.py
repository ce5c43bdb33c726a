"""Figures: alternative text is required; the static control carries every frame."""

from __future__ import annotations

import pytest

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from llm180 import figures


@pytest.fixture
def shown(monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda *objects: displayed.extend(objects))
    return displayed


def test_a_figure_is_shown_with_its_alternative_text_and_closed(shown):
    fig, _ = plt.subplots()
    figures.show(fig, alt='a line that rises "fast"')
    assert 'alt="a line that rises &quot;fast&quot;"' in shown[0].data
    assert not plt.fignum_exists(fig.number)


def test_a_figure_without_alternative_text_is_refused(shown):
    fig, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt"):
        figures.show(fig, alt=" ")
    with pytest.raises(ValueError, match="alt"):
        figures.explore(lambda k: "<b></b>", alt="", static=True, k=[1])


def test_the_static_control_holds_a_frame_for_each_value(shown):
    figures.explore(lambda k: f"<b>frame {k}</b>", alt="frames", static=True, k=range(3))
    page = shown[0].data
    assert all(f"<b>frame {k}</b>" in page for k in range(3))
    assert 'max="2"' in page and '["0", "1", "2"]' in page and "http" not in page


def test_two_controls_on_a_page_have_different_ids(shown):
    for _ in range(2):
        figures.explore(lambda k: "<i></i>", alt="frames", static=True, k=[1, 2])
    first, second = (s.data.split('id="')[1].split('"')[0] for s in shown)
    assert first != second


def test_the_live_control_redraws_with_the_slider(shown):
    drawn = []
    figures.explore(lambda k: drawn.append(k) or "<i></i>", alt="frames", static=False, k=[5, 6])
    box = shown[-1]
    box.children[0].value = 6
    assert drawn == [5, 6]


def test_a_control_takes_one_name():
    with pytest.raises(ValueError, match="one control"):
        figures.explore(lambda k: "", alt="x", static=True, a=[1], b=[2])
