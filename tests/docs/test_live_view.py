"""The committed picture of the live view is what its script draws."""

import html
import re


def words(svg):
    """The words of a picture in order, without figures and bars, which depend on the CPU."""
    text = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    return re.findall(r"[a-z_]{2,}", html.unescape(text))


def test_picture_is_what_the_script_draws(load_hook, tmp_path):
    live_view = load_hook("live_view")
    live_view.draw(tmp_path / "live-view.svg")
    drawn, committed = (tmp_path / "live-view.svg").read_text(), live_view.PICTURE.read_text()
    assert words(drawn) == words(committed)
    assert {"caller", "agent", "gender", "age_group", "age_band"} <= set(words(drawn))
    assert "url(http" not in committed
    assert len(committed) < 40_000
