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


def _bessel_norms(zeros: np.ndarray) -> np.ndarray:
    """sqrt(2) / |j_(l+1)(z_ln)| of zeros (n_degrees, n_zeros)."""
    from scipy.special import spherical_jn

    following = np.stack([spherical_jn(degree + 1, row) for degree, row in enumerate(zeros)])
    return math.sqrt(2.0) / np.abs(following)


def _bessel_polynomials(n_degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of u_l and v_l in j_l(z) = w (t_l(z) u_l(w^2) + t_(l+1)(z) w v_l(w^2)), w = 1 / z.

    t_l is sin z for even l and cos z for odd l.  From j_(l+1) = (2 l + 1) w j_l - j_(l-1), whose
    sine and cosine parts keep their parity in w; powers of w^2 rise along the second dimension.
    """
    # Polynomials in w that multiply w sin z and w cos z: j_0 = w sin z, j_1 = w (w sin z - cos z).
    sine, cosine = [[1.0], [0.0, 1.0]], [[0.0], [-1.0]]
    for degree in range(1, n_degrees):
        for rows in (sine, cosine):
            raised = np.polymul([1.0, 0.0], rows[-1][::-1]) * (2.0 * degree + 1.0)
            rows.append(list(np.polysub(raised, rows[-2][::-1])[::-1]))
    size = n_degrees // 2 + 1
    plain, divided = np.zeros((2, n_degrees, size))
    for degree in range(n_degrees):
        own, other = (sine, cosine) if degree % 2 == 0 else (cosine, sine)
        even, odd = own[degree][0::2], other[degree][1::2]
        plain[degree, : len(even)] = even
        divided[degree, : len(odd)] = odd
    return plain, divided


class SphericalBesselBasis(nn.Module):
    """j_l(z_ln x) sqrt(2) / |j_(l+1)(z_ln)|, z_ln being the n-th zero of j_l.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020, eq. 6, without its constant c^(-3/2)
    and its Y_l0.  Evaluated in float64 whatever comes in: sine and cosine parts cancel down to
    z^(2 l + 1) / (2 l - 1)!!^2 of their size, for which float32 is too short at small distances.

    Args:
        n_degrees: l = 0, ..., n_degrees - 1.
        n_radial: zeros per degree.
    """

    zeros: Tensor
    phases: Tensor
    coefficients: Tensor

    def __init__(self, n_degrees: int, n_radial: int) -> None:
        super().__init__()
        zeros = spherical_bessel_zeros(n_degrees, n_radial)
        norms = _bessel_norms(zeros)
        coefficients = np.stack(_bessel_polynomials(n_degrees))[:, :, None, :] * norms[None, :, :, None]
        # cos z = sin(z + pi / 2).
        odd = np.arange(n_degrees) % 2
        phases = 0.5 * math.pi * np.stack([odd, 1 - odd]).repeat(n_radial, axis=1)
        self.n_degrees = n_degrees
        self.register_buffer("zeros", torch.as_tensor(zeros.reshape(-1)))
        self.register_buffer("phases", torch.as_tensor(phases).unsqueeze(1))
        # (powers of 1 / z^2, 2, 1, n_degrees * n_radial), highest power first.
        shape = (2, 1, n_degrees * n_radial, coefficients.shape[-1])
        powers = torch.as_tensor(coefficients.reshape(shape)).permute(3, 0, 1, 2).flip(0)
        self.register_buffer("coefficients", powers.contiguous())

    def forward(self, scaled: Tensor) -> Tensor:
        """(n,) -> (n, n_degrees * n_radial), degrees outermost."""
        z = scaled.to(torch.float64).unsqueeze(1) * self.zeros
        inverse = torch.reciprocal(z)
        square = (inverse * inverse).unsqueeze(0)
        coefficients = self.coefficients.unbind(0)
        total = coefficients[0]
        for k in range(1, self.coefficients.size(0)):
            total = torch.addcmul(coefficients[k], total, square)
        plain, divided = (torch.sin(z.unsqueeze(0) + self.phases) * total).unbind(0)
        return (torch.addcmul(plain, divided, inverse) * inverse).to(scaled.dtype)

    @torch.jit.unused
    def anywhere(self, scaled: Tensor) -> Tensor:
        """The same in float64 to rounding also at small distances, and at 0: for tables.

        j_l(z) = z^l / (2 l + 1)!! sum_k (-z^2 / 2)^k / (k! (2 l + 3) (2 l + 5) ... (2 l + 2 k + 1)) where z < 3.
        """
        scaled = scaled.to(torch.float64)
        zeros = self.zeros.view(self.n_degrees, -1)
        norms = torch.as_tensor(_bessel_norms(zeros.cpu().numpy()), device=zeros.device)
        z = scaled.unsqueeze(1) * self.zeros
        near = z < 3.0
        square = -0.5 * torch.where(near, z, 0.0).view(-1, *zeros.shape).square()
        rows = []
        for degree in range(self.n_degrees):
            total = torch.ones_like(square[:, degree])
            for k in range(20, 0, -1):
                total = 1.0 + total * square[:, degree] / (k * (2.0 * degree + 2.0 * k + 1.0))
            first = math.prod(range(1, 2 * degree + 2, 2))
            rows.append(total * z.view(-1, *zeros.shape)[:, degree] ** degree * (norms[degree] / first))
        # Where both are in use neither is far from its own; a quotient by 0 would end up in gradients.
        return torch.where(near, torch.cat(rows, dim=1), self(scaled.clamp(min=0.02)))
