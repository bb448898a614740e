"""Basis functions of distances and angles.

They take scaled distances x = d / cutoff; the envelopes that end them at the
cutoff are in :mod:`openmm_mlbench.models.cutoffs`.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def gaussian_basis(distances: Tensor, centres: Tensor, gamma: float) -> Tensor:
    """exp(-gamma (d - mu_k)^2) for each centre (n_centres,), added as last dimension.

    Source: Schuett et al., NeurIPS 2017, section 4.1.
    """
    return torch.exp(-gamma * (distances.unsqueeze(-1) - centres).square())


def bessel_basis(scaled: Tensor, frequencies: Tensor) -> Tensor:
    """sin(f_n x) / x for each frequency (n_radial,), added as last dimension.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020, eq. 7, with f_n = n pi at the start of
    training and without its constant sqrt(2 / c) / c.
    """
    x = scaled.unsqueeze(-1)
    return torch.sin(x * frequencies) / x


def legendre_polynomials(cosines: Tensor, n_degrees: int) -> list[Tensor]:
    """P_0, ..., P_(n_degrees - 1) of the cosines, each of their shape, by Bonnet's recursion.

    (l + 1) P_(l+1)(c) = (2 l + 1) c P_l(c) - l P_(l-1)(c).  The angle itself is never
    taken, so derivatives stay finite at 0 and pi.
    """
    values = [torch.ones_like(cosines), cosines]
    for degree in range(1, n_degrees - 1):
        product = cosines * values[degree]
        factor = (2.0 * degree + 1.0) / (degree + 1.0)
        values.append(torch.sub(factor * product, values[degree - 1], alpha=degree / (degree + 1.0)))
    return values[:n_degrees]


def harmonic_norms(n_degrees: int) -> Tensor:
    """sqrt((2 l + 1) / 4 pi) (n_degrees,): Y_l0(theta) is this times P_l(cos theta); float64."""
    return torch.sqrt((2.0 * torch.arange(n_degrees, dtype=torch.float64) + 1.0) / (4.0 * math.pi))


def spherical_bessel_zeros(n_degrees: int, n_zeros: int) -> np.ndarray:
    """The first positive zeros of j_0, ..., j_(n_degrees - 1), (n_degrees, n_zeros), float64.

    Zeros of j_l separate those of j_(l+1), so each is bracketed by two of the degree before.
    """
    from scipy.optimize import brentq
    from scipy.special import spherical_jn

    brackets = math.pi * np.arange(1, n_zeros + n_degrees)
    rows = [brackets[:n_zeros]]
    for degree in range(1, n_degrees):
        brackets = np.array(
            [
                brentq(lambda z, degree=degree: spherical_jn(degree, z), low, high, xtol=1e-14, rtol=1e-15)
                for low, high in pairwise(brackets)
            ]
        )
        rows.append(brackets[:n_zeros])
    return np.stack(rows)


class SphericalBesselBasis(nn.Module):
    """j_l(z_ln x) sqrt(2) / |j_(l+1)(z_ln)|, z_ln being the n-th zero of j_l.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020, eq. 6, without its constant c^(-3/2)
    and its Y_l0.  Evaluated in float64 whatever comes in: the recursion upwards in l
    loses (2 l - 1)!! / z^(l+1) of the precision, which float32 has not at short distances.

    Args:
        n_degrees: l = 0, ..., n_degrees - 1.
        n_radial: zeros per degree.
    """

    zeros: Tensor
    norms: Tensor

    def __init__(self, n_degrees: int, n_radial: int) -> None:
        super().__init__()
        from scipy.special import spherical_jn

        zeros = spherical_bessel_zeros(n_degrees, n_radial)
        following = np.stack([spherical_jn(degree + 1, row) for degree, row in enumerate(zeros)])
        self.n_degrees = n_degrees
        self.n_radial = n_radial
        self.register_buffer("zeros", torch.as_tensor(zeros.reshape(-1)))
        self.register_buffer("norms", torch.as_tensor(math.sqrt(2.0) / np.abs(following.reshape(-1))))

    def forward(self, scaled: Tensor) -> Tensor:
        """(n,) -> (n, n_degrees * n_radial), degrees outermost."""
        z = scaled.to(torch.float64).unsqueeze(1) * self.zeros
        inverse = torch.reciprocal(z)
        before = torch.sin(z) * inverse
        values = [before[:, : self.n_radial]]
        if self.n_degrees > 1:
            # Columns of degrees already reached are dropped at every step.
            inverse = inverse[:, self.n_radial :]
            before = before[:, self.n_radial :]
            current = (before - torch.cos(z[:, self.n_radial :])) * inverse
            for degree in range(1, self.n_degrees):
                values.append(current[:, : self.n_radial])
                if degree + 1 < self.n_degrees:
                    inverse = inverse[:, self.n_radial :]
                    following = (2.0 * degree + 1.0) * inverse * current[:, self.n_radial :]
                    following = following - before[:, self.n_radial :]
                    before = current[:, self.n_radial :]
                    current = following
        return (torch.cat(values, dim=1) * self.norms).to(scaled.dtype)
