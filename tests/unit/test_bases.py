"""Basis functions and envelopes against scipy, quadrature and their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import eval_legendre, spherical_jn

from openmm_mlbench.models.bases import (
    SphericalBesselBasis,
    bessel_basis,
    gaussian_basis,
    harmonic_norms,
    legendre_polynomials,
    spherical_bessel_zeros,
)
from openmm_mlbench.models.cutoffs import polynomial_envelope


def test_zeros_of_the_spherical_bessel_functions():
    zeros = spherical_bessel_zeros(7, 6)
    assert zeros.shape == (7, 6)
    np.testing.assert_allclose(zeros[0], np.pi * np.arange(1, 7), rtol=1e-15)
    # Abramowitz and Stegun, table 10.6: zeros of j_1 and j_2.
    np.testing.assert_allclose(zeros[1, :3], [4.493409, 7.725252, 10.904122], atol=1e-6)
    np.testing.assert_allclose(zeros[2, :3], [5.763459, 9.095011, 12.322941], atol=1e-6)
    for degree, row in enumerate(zeros):
        assert np.abs(spherical_jn(degree, row)).max() < 1e-14
        # None is left out: one sign change between neighbours.
        between = spherical_jn(degree, np.concatenate([[0.5 * row[0]], 0.5 * (row[1:] + row[:-1])]))
        assert (np.sign(between) == (-1.0) ** np.arange(6)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spherical_bessel_basis(dtype):
    basis = SphericalBesselBasis(7, 6)
    x = torch.linspace(0.02, 1.0, 50).to(dtype)
    values = basis(x)
    assert values.dtype == dtype
    zeros = spherical_bessel_zeros(7, 6)
    for degree in range(7):
        for n in range(6):
            norm = math.sqrt(2.0) / abs(spherical_jn(degree + 1, zeros[degree, n]))
            wanted = norm * spherical_jn(degree, zeros[degree, n] * x.double().numpy())
            found = values[:, 6 * degree + n].numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-6)
            far = x > 0.1  # Below it the recursion upwards costs digits.
            if dtype == torch.float64:
                np.testing.assert_allclose(found[far], wanted[far], atol=1e-11)


def test_spherical_bessel_basis_anywhere():
    """To rounding, with its derivative, from 0 on, where the recursion upwards has no digits left."""
    basis = SphericalBesselBasis(7, 6).double()
    x = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64).requires_grad_()
    values = basis.anywhere(x)
    zeros = spherical_bessel_zeros(7, 6)
    for degree in range(7):
        norms = math.sqrt(2.0) / np.abs(spherical_jn(degree + 1, zeros[degree]))
        z = x.detach().numpy()[:, None] * zeros[degree]
        found = values[:, 6 * degree : 6 * degree + 6]
        np.testing.assert_allclose(found.detach(), norms * spherical_jn(degree, z), atol=1e-12)
        (slope,) = torch.autograd.grad(found[:, 5].sum(), x, retain_graph=True)
        wanted = norms[5] * zeros[degree, 5] * spherical_jn(degree, z[:, 5], derivative=True)
        np.testing.assert_allclose(slope, wanted, atol=1e-9)


def test_spherical_bessel_basis_is_orthonormal():
    """The integral of x^2 f_n f_m over the unit interval is the identity, for each degree."""
    basis = SphericalBesselBasis(3, 3)

    def product(x, degree, n, m):
        values = basis(torch.tensor([x], dtype=torch.float64))[0].view(3, 3)[degree]
        return x * x * float(values[n] * values[m])

    for degree in range(3):
        for n, m in ((0, 0), (0, 1), (2, 2)):
            integral = quad(product, 1e-3, 1.0, args=(degree, n, m), epsabs=1e-10)[0]
            assert integral == pytest.approx(float(n == m), abs=1e-6)


def test_bessel_basis_and_its_limit():
    frequencies = math.pi * torch.arange(1, 4, dtype=torch.float64)
    x = torch.tensor([1e-9, 0.25, 1.0], dtype=torch.float64)
    values = bessel_basis(x, frequencies)
    np.testing.assert_allclose(values[0], frequencies, rtol=1e-12)
    np.testing.assert_allclose(values[1], [4 * math.sin(math.pi / 4), 4.0, 4 * math.sin(0.75 * math.pi)])
    np.testing.assert_allclose(values[2], 0.0, atol=1e-15)


def test_gaussian_basis():
    centres = torch.tensor([0.0, 0.5], dtype=torch.float64)
    values = gaussian_basis(torch.tensor([[0.5], [1.0]], dtype=torch.float64), centres, 2.0)
    assert values.shape == (2, 1, 2)
    np.testing.assert_allclose(values[:, 0], np.exp([[-0.5, 0.0], [-2.0, -0.5]]))


def test_legendre_polynomials():
    c = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64, requires_grad=True)
    values = legendre_polynomials(c, 8)
    assert len(values) == 8
    for degree, value in enumerate(values):
        np.testing.assert_allclose(value.detach(), eval_legendre(degree, c.detach().numpy()), atol=1e-14)
    # P_l'(1) = l (l + 1) / 2: finite where the angle is 0, and at pi with the other sign.
    (slope,) = torch.autograd.grad(values[7].sum(), c)
    assert float(slope[-1]) == pytest.approx(28.0)
    assert float(slope[0]) == pytest.approx(28.0)
    assert len(legendre_polynomials(c, 1)) == 1


def test_harmonics_are_normalised_on_the_sphere():
    norms = harmonic_norms(5)
    for degree in range(5):
        square = quad(lambda c, degree=degree: (float(norms[degree]) * eval_legendre(degree, c)) ** 2, -1, 1)[
            0
        ]
        assert 2.0 * math.pi * square == pytest.approx(1.0)


@pytest.mark.parametrize("power", [1, 5, 6])
def test_envelope_is_the_papers_polynomial(power):
    x = np.linspace(0.0, 0.98, 50)
    wanted = (
        1.0
        - (power + 1) * (power + 2) / 2 * x**power
        + power * (power + 2) * x ** (power + 1)
        - power * (power + 1) / 2 * x ** (power + 2)
    )
    np.testing.assert_allclose(polynomial_envelope(torch.as_tensor(x), power), wanted, atol=1e-13)


def test_envelope_ends_smoothly_and_exactly():
    x = torch.tensor([1.0, 1.0 + 1e-7, 3.0, 1e8], requires_grad=True)
    value = polynomial_envelope(x, 6)
    assert float(value.detach().abs().max()) == 0.0
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert float(slope.abs().max()) == 0.0
    # p (p + 1) (p + 2) / 6 (1 - x)^3 just inside, also in float32.
    for inside in (1e-2, 1e-3):
        near = float(polynomial_envelope(torch.tensor([1.0 - inside]), 6))
        assert near == pytest.approx(56.0 * inside**3, rel=0.06)
