"""Muon's steps against SciPy's polar decomposition and PyTorch's own Muon and AdamW."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rsaseg.training.muon import MOMENTUM, Muon, polar_factor


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_the_polar_factor_is_scipys(m: int, n: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).normal(size=(m, n))
    u, _, v = np.linalg.svd(drawn, full_matrices=False)
    matrix = u @ np.diag(np.geomspace(3, 0.05, min(m, n)) * 10.0 ** (seed % 9 - 4)) @ v
    expected, _ = scipy.linalg.polar(matrix, side="right" if m >= n else "left")
    ours = polar_factor(torch.from_numpy(matrix))
    assert np.allclose(ours.numpy(), expected, atol=1e-8)


def test_a_matrix_of_few_directions_or_none_stays_finite() -> None:
    assert not polar_factor(torch.zeros(3, 5)).any()
    one = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0, 0.0]))
    expected = torch.tensor([[0.0, 0.6, 0.0], [0.0, 0.8, 0.0]])
    assert torch.allclose(polar_factor(one), expected, atol=1e-3)


def test_kernels_move_as_by_pytorchs_own_muon() -> None:
    """Its singular values are 0.7 to 1.2 where ours are 1, so directions are compared."""
    rng = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(6, 4, 3, 3, 3, generator=rng))
    theirs = nn.Parameter(ours.detach().flatten(1).clone())
    first = Muon([ours], lr=0.01, weight_decay=0.1)
    second = torch.optim.Muon(
        [theirs], 0.01, 0.1, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        before = ours.detach().flatten(1).clone(), theirs.detach().clone()
        gradient = torch.randn(6, 4, 3, 3, 3, generator=rng)
        ours.grad, theirs.grad = gradient, gradient.flatten(1).clone()
        first.step()
        second.step()
        with torch.no_grad():
            moved = ours.flatten(1) - 0.999 * before[0], theirs - 0.999 * before[1]
        cosine = torch.cosine_similarity(moved[0].flatten(), moved[1].flatten(), dim=0)
        assert float(cosine) > 0.97
        # orthogonal rows: 0.01 * 0.2 * sqrt(4 * 27) each
        assert torch.allclose(moved[0].norm(dim=1), torch.tensor(0.02078), atol=1e-4)
        assert float(moved[0].norm() / moved[1].norm()) == pytest.approx(1, abs=0.25)


def test_factors_and_biases_move_as_by_adamw() -> None:
    rng = torch.Generator().manual_seed(1)
    ours = nn.Parameter(torch.randn(5, generator=rng))
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = Muon([ours], lr=0.01), torch.optim.AdamW([theirs], lr=0.01)
    for _ in range(5):
        gradient = torch.randn(5, generator=rng)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(ours, theirs)
