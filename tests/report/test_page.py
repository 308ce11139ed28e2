"""The report as its reader meets it: in a real browser, on paper, and with hostile names."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser

from rsaseg.imaging import Volume
from rsaseg.lesions import find_lesions
from rsaseg.phantom import Phantom
from rsaseg.report.lesion_table import describe_lesions
from rsaseg.report.page import report_html

HOSTILE = '<img src=x onerror=alert(1)>&"q".nii.gz'


def page(exam: dict[str, Volume], mask: np.ndarray, **changed: Any) -> bytes:
    grid = exam["FLAIR"].grid
    labels, n_lesions = find_lesions(mask, grid)
    sure = np.where(labels == 1, 0.9, 0.6).astype(np.float32)
    alignment = {"problem": None, "moved": False, "engine": "none", "version": ""}
    record: dict[str, Any] = {
        "lesion_count": n_lesions,
        "lesion_volume_ml": 12.5,
        "lesion_volume_interval_ml": [10.25, 14.75],
        "interval_thresholds": [0.65, 0.35],
        "lesions_to_review": max(n_lesions - 1, 0),
        "threshold": 0.5,
        "min_lesion_mm3": 3.0,
        "missing_sequences": [],
        "warnings": [],
        "registration": {name: alignment for name in exam if name != "FLAIR"},
        "GeneratedBy": [{"Name": "rsaseg", "Version": "1"}],
        "weights": {
            "name": "w",
            "version": "1",
            "sha256": "ab" * 32,
            "partner": {
                "name": "v",
                "version": "2",
                "sha256": "ef" * 32,
                "partner": {"name": "u", "version": "3", "sha256": "ad" * 32},
            },
        },
        "input_sha256": dict.fromkeys(exam, "cd" * 32),
        "grid": {"shape": grid.shape, "spacing_mm": grid.spacing_mm},
        "device": "cpu",
        "precision": "float32",
        "versions": {"python": "3"},
        "platform": "here",
        "command": ["rsaseg", "predict"],
    }
    good = {name: True for name in exam if name != "FLAIR"}
    lesions = describe_lesions(labels, grid, sure)
    return report_html(exam, labels, lesions, record | changed, good)


@pytest.fixture(scope="module")
def html(phantom: Phantom) -> bytes:
    flair = replace(phantom.images["FLAIR"], name=f"/secret/folder/{HOSTILE}")
    return page({**phantom.images, "FLAIR": flair}, phantom.lesion, warnings=[f"{HOSTILE}: odd"])


@pytest.fixture(scope="module")
def browser(html: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a browser: chromium")
    folder = tmp_path_factory.mktemp("report")
    (folder / "r.html").write_bytes(html)
    with Browser(program, folder / "profile") as one:
        one.open(folder / "r.html")
        yield one


class Elements(HTMLParser):
    """Every element with its attributes, and all text outside the style sheet."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] != "style":
            self.text += data


def test_a_name_that_is_no_utf8_costs_no_page(phantom: Phantom) -> None:
    flair = replace(phantom.images["FLAIR"], name="/a/FL\udcc4IR.nii")
    exam = {"FLAIR": flair}
    assert b"<h1>Lesions in FL\\udcc4IR.nii</h1>" in page(exam, phantom.lesion)


def test_nothing_outside_the_page_is_named(html: bytes) -> None:
    parsed = Elements(html)
    for tag, attributes in parsed.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "action", "srcset", "poster", "background", "style"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#", "aspect-ratio:"))
        assert not [name for name in attributes if name.startswith("on")]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in parsed.elements if tag == "a"}
    assert {f"#{one}" for one in ids if one and one.startswith("lesion-")} == links
    assert b"url(" not in html
    assert b"@import" not in html


def test_hostile_names_are_text_and_folders_stay_out(html: bytes) -> None:
    text = Elements(html).text
    assert f"{HOSTILE}: odd" in text
    assert f"Lesions in {HOSTILE}" in text
    assert b"secret" not in html


def test_totals_provenance_and_notice_are_there(html: bytes) -> None:
    text = Elements(html).text
    hashes = ("ab" * 32, "ef" * 32, "ad" * 32, "cd" * 32)
    for words in ("10.25 to 14.75 ml (0.65 to 0.35)", "12.50 ml", "3 mm³", *hashes):
        assert words in text
    assert text.count("For research use only") == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"moved": False, "residual_mm": 0.2}, "used as it is, residual 0.20 mm"),
        ({"moved": False, "engine": "none"}, "T1: already on the FLAIR's grid, used as it is"),
        ({"engine": "none"}, "T1: placed by its header, not registered"),
        ({"residual_mm": 0.123}, "T1: registered by flirt 6, residual 0.12 mm"),
        ({}, "T1: registered by flirt 6"),
        ({"problem": "too far off"}, "T1: too far off"),
    ],
)
def test_how_t1_was_aligned(changed: dict[str, Any], words: str, phantom: Phantom) -> None:
    exam = {name: phantom.images[name] for name in ("T1", "FLAIR")}
    one = {"problem": None, "moved": True, "engine": "flirt", "version": "6"} | changed
    empty = np.zeros(phantom.grid.shape, dtype=bool)
    assert words in Elements(page(exam, empty, registration={"T1": one})).text


def test_the_same_exam_gives_the_same_small_page(html: bytes, phantom: Phantom) -> None:
    empty = np.zeros(phantom.grid.shape, dtype=bool)
    flair_only = {"FLAIR": phantom.images["FLAIR"]}
    first = page(flair_only, empty)
    assert first == page(flair_only, empty)
    assert "No lesion was found" in Elements(first).text
    assert 'id="registration"' not in first.decode()
    assert len(html) < 5_000_000


def test_the_browser_has_nothing_to_complain_and_asks_for_nothing(browser: Browser) -> None:
    sizes = browser.ask(
        "Promise.all([...document.images].map(async i => (await i.decode(), i.naturalWidth)))"
    )
    assert len(sizes) > 10
    assert min(sizes) > 10
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.endswith("/r.html")] == []


def test_outlines_can_be_hidden(browser: Browser) -> None:
    seen = "getComputedStyle(document.querySelector('.contours path')).visibility"
    assert browser.ask(seen) == "visible"
    browser.ask("document.querySelector('label[for=show-contours]').click()")
    assert browser.ask(seen) == "hidden"
    browser.ask("document.querySelector('label[for=show-contours]').click()")
    assert browser.ask(seen) == "visible"


def test_outlines_lie_on_the_picture(browser: Browser) -> None:
    boxes = browser.ask(
        "[...document.querySelectorAll('.frame')].filter(f => f.querySelector('svg')).map(f => {"
        "const a = f.querySelector('img').getBoundingClientRect();"
        "return [...f.querySelectorAll('path')].map(p => {const b = p.getBoundingClientRect();"
        "return [b.left - a.left, b.top - a.top, a.right - b.right, a.bottom - b.bottom]})})"
    )
    gaps = [gap for frame in boxes for path in frame for gap in path]
    assert len(gaps) > 20
    assert min(gaps) > 0


def test_each_row_leads_to_its_lesion(browser: Browser) -> None:
    places = browser.ask(
        "[...document.querySelectorAll('#lesions a')].map(a => {a.click();"
        "const b = document.querySelector(':target').getBoundingClientRect();"
        "return [a.hash, document.querySelector(':target').id, b.top, innerHeight - b.bottom]})"
    )
    assert len(places) > 3
    for link, target, above, below in places:
        assert link == f"#{target}"
        assert above >= 0
        assert below >= 0


def test_it_prints_on_a4(browser: Browser, tmp_path: Path) -> None:
    answer = browser.send("Page.printToPDF", preferCSSPageSize=True)
    pdf = base64.b64decode(answer["data"])
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox ?\[([^]]+)\]", pdf)}
    assert {tuple(round(x) for x in box) for box in boxes} == {(0, 0, 595, 842)}
    wide = browser.ask("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    a4 = {"width": 703, "height": 1040}  # between margins of 12 mm, in CSS pixels
    browser.send("Emulation.setDeviceMetricsOverride", **a4, deviceScaleFactor=1, mobile=False)
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask("document.querySelector('table').scrollWidth") <= 703
        assert browser.ask("document.documentElement.scrollWidth - innerWidth") <= 0
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")
        browser.send("Emulation.setEmulatedMedia", media="")
    assert json.dumps(browser.complaints) == "[]"
