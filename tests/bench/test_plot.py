"""The picture: well-formed, complete, and drawn to scale."""

from xml.etree import ElementTree

from bench.plot import plot
from bench.report import Report

SVG = "{http://www.w3.org/2000/svg}"


def report(names: tuple[str, ...] = ("nginx", "bare relay", "Tollhouse")) -> Report:
    made = Report(names, "nginx", "bare relay", "Tollhouse")
    known = {"nginx": 20.0, "bare relay": 200.0, "Tollhouse": 100.0}
    for name in names:
        for spread in (0.9, 1.0, 1.1):
            value = known[name] * spread
            made.add(name, {"call_1k_32_us": value, "added_p50_1k_us": value, "event_100_us": value, "rss_after_mib": value})
    return made


def bars(drawn: ElementTree.Element, kind: str) -> list[float]:
    return [float(rect.attrib["width"]) for rect in drawn.iter(f"{SVG}rect") if rect.attrib["class"] == kind]


def test_each_panel_has_a_bar_for_every_subject_in_proportion() -> None:
    drawn = ElementTree.fromstring(plot(report()))
    limits, baselines, subjects = (bars(drawn, kind) for kind in ("limit", "baseline", "subject"))
    assert len(limits) == len(baselines) == len(subjects) == 4
    assert all(abs(mine / theirs - 0.5) < 0.01 for mine, theirs in zip(subjects, baselines, strict=True))


def test_a_subject_that_was_not_there_has_no_bar() -> None:
    drawn = ElementTree.fromstring(plot(report(("bare relay", "Tollhouse"))))
    assert bars(drawn, "limit") == []
    assert len(bars(drawn, "subject")) == 4


def test_it_can_be_read_in_light_and_dark() -> None:
    drawn = plot(report())
    assert "prefers-color-scheme: dark" in drawn
    assert 'class="ground"' in drawn


def test_nothing_leaves_the_picture() -> None:
    made = report()
    made.add("nginx", {"added_p50_1k_us": 5000.0})
    made.add("nginx", {"added_p50_1k_us": -5.0})
    drawn = ElementTree.fromstring(plot(made))
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    for rect in drawn.iter(f"{SVG}rect"):
        assert 0 <= float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
        assert 0 <= float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height
    for text in drawn.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_it_asks_nobody_for_anything() -> None:
    drawn = plot(report())
    assert not any(word in drawn for word in ("<script", "<image", "href", "@import", "url("))
