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


def quarter_cosine(distances: Tensor, cutoff: float) -> Tensor:
    """ForceNet's weight of an edge, zero beyond the cutoff.

    f(r) = cos(pi r / (2 r_c)); the value vanishes at r_c, its slope does not, so what it
    multiplies is continuous with a kink.
    Source: Hu et al., arXiv:2103.01436 (2021), section 4.1.
    """
    inside = (distances < cutoff).to(distances.dtype)
    return torch.cos(distances * (0.5 * math.pi / cutoff)) * inside


def quintic_switch(distances: Tensor, start: float, cutoff: float) -> Tensor:
    """DeePMD-kit's switch: 1 below ``start``, 0 beyond ``cutoff``, two derivatives continuous.

    w(u) = u^3 (-6 u^2 + 15 u - 10) + 1 with u = (r - r_s) / (r_c - r_s).
    Source: Wang et al., Comput. Phys. Commun. 228, 178 (2018); DeePMD-kit's se_e2_a.
    The paper of the architecture (NeurIPS 2018) has a cosine in its place.
    """
    u = ((distances - start) * (1.0 / (cutoff - start))).clamp(0.0, 1.0)
    return u * u * u * (u * (15.0 - 6.0 * u) - 10.0) + 1.0


def polynomial_envelope(scaled: Tensor, power: int) -> Tensor:
    """1 - (p+1)(p+2)/2 x^p + p (p+2) x^(p+1) - p (p+1)/2 x^(p+2), exactly zero from x = 1 on.

    Value and two derivatives vanish at 1.  Evaluated as (1 - x)^3 sum_(k<p) (k+1)(k+2)/2 x^k,
    the same polynomial without its cancellation near 1.
    Source: Gasteiger, Gross, Guennemann, ICLR 2020, eq. 8.

    Args:
        scaled: x = distance / cutoff, any shape.
        power: p.
    """
    x = scaled.clamp(max=1.0)
    total = torch.full_like(x, 0.5 * power * (power + 1))
    for k in range(power - 2, -1, -1):
        total = total * x + 0.5 * (k + 1) * (k + 2)
    rest = 1.0 - x
    return rest * rest * rest * total
