"""The curves' picture: what stands at an axis is where it says."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from rsaseg.report.curves import curves_svg


@pytest.mark.parametrize(("steps", "ticks"), [(3, "0 1.5 3"), (1500, "0 750 1500")])
def test_a_step_at_the_axis_is_the_step_that_lies_there(steps: int, ticks: str) -> None:
    rows = [
        {"step": str(k), "loss": "1.71", "dice": "0.5", "held_out_dice": ""} for k in range(steps)
    ]
    picture = ET.fromstring(curves_svg({"final": rows}))
    words = [element.text for element in picture.iter() if element.get("text-anchor") == "middle"]
    assert [word for word in words if word and word[0].isdigit()] == 2 * ticks.split()
