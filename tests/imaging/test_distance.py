"""Distances in a mask, with SciPy's transform as the oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from rsaseg.imaging.distance import distance_mm

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5))
STEPS = st.tuples(*[st.sampled_from((0.5, 1.0, 1.5, 6.5))] * 3)


@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)), STEPS)
def test_distances_are_scipys(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    found = distance_mm(mask, spacing_mm)
    assert found.shape == mask.shape
    if mask.any():
        assert np.allclose(found, distance_transform_edt(~mask, spacing_mm), rtol=1e-5)
    else:
        assert np.isinf(found).all()
