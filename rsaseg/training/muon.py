"""An optimiser that moves all directions of a kernel alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ADAM_SIZE = 0.2
"""Root mean square of AdamW's own steps, in learning rates."""


class Muon(torch.optim.AdamW):
    """Muon for kernels and other matrices, AdamW for factors, shifts and biases.

    A kernel's gradient has a few large directions, and layers learn along these first. With
    U S V^T the singular value decomposition of its momentum, as a matrix of output channels by all
    else, the kernel moves along U V^T. One learning rate does for both: a step has the size of
    AdamW's.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; sizes after Liu et al. 2025,
    doi:10.48550/arXiv.2502.16982.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those of a network.
    lr, weight_decay : float
        As AdamW's.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move each parameter; the gradients of kernels are used up."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim > 1 and parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])
                    parameter.grad = None
        super().step()

    def _move(self, kernel: Tensor, lr: float, weight_decay: float) -> None:
        gradient, state = cast(Tensor, kernel.grad), self.state[kernel]
        if not state:  # AdamW, when it loads a checkpoint, expects a step in each
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(kernel)}
        state["step"] += 1
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        direction = polar_factor((gradient + MOMENTUM * momentum).flatten(1))
        size = ADAM_SIZE * max(direction.shape) ** 0.5
        kernel.mul_(1 - lr * weight_decay)
        kernel.sub_(direction.reshape(kernel.shape), alpha=lr * size)


def polar_factor(matrix: Tensor) -> Tensor:
    """Return U V^T of a matrix U S V^T, as (M M^T)^-1/2 M.

    Directions of less than a thousandth of the largest singular value stay smaller.

    Parameters
    ----------
    matrix : Tensor
        (m, n), finite. Work grows with the smaller of them squared.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return polar_factor(matrix.T).T
    squares, u = torch.linalg.eigh((matrix @ matrix.T).cpu())  # some devices have none
    floor = 1e-6 * squares[-1] + torch.finfo(matrix.dtype).tiny
    root: Tensor = (u * squares.clamp_min(floor).rsqrt()) @ u.T
    return root.to(matrix.device) @ matrix
