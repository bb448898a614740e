"""Cutoff and switching functions, smooth to the order that each states."""

import math

import torch
from torch import Tensor


def cosine_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """Behler-Parrinello cosine cutoff, zero beyond the cutoff.

    f(r) = (cos(pi r / r_c) + 1) / 2; value and slope vanish at r_c.
    Source: Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007), eq. 4.

    Args:
        distances: any shape, A.
        cutoff: r_c, A.

    Returns:
        The same shape, between 0 and 1.
    """
    inside = (distances < cutoff).to(distances.dtype)
    return 0.5 * (torch.cos(distances * (math.pi / cutoff)) + 1.0) * inside


def quintic_switch(distances: Tensor, start: float, cutoff: float) -> Tensor:
    """DeePMD-kit's switch: 1 below ``start``, 0 beyond ``cutoff``, two derivatives continuous.

    w(u) = u^3 (-6 u^2 + 15 u - 10) + 1 with u = (r - r_s) / (r_c - r_s).
    Source: Wang et al., Comput. Phys. Commun. 228, 178 (2018); DeePMD-kit's se_e2_a.
    The paper of the architecture (NeurIPS 2018) has a cosine in its place.
    """
    u = ((distances - start) * (1.0 / (cutoff - start))).clamp(0.0, 1.0)
    return u * u * u * (u * (15.0 - 6.0 * u) - 10.0) + 1.0
