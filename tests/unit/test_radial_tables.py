"""Tables of functions of one number: as close as they say, with slopes of their own, and refused where they cannot be."""

import numpy as np
import pytest
import torch

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.radial_tables import derivatives, read_table, tabulate


def waves(x):
    """Two tables of three functions (2, n, 3)."""
    factors = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.1, 4.0]], dtype=torch.float64)
    return torch.sin(x.view(1, -1, 1) * factors.unsqueeze(1))


def read(table, tables, x):
    rows, weights = tables.places(x)
    return torch.stack([read_table(part, rows, weights) for part in table])


def test_derivatives_by_hand():
    x = torch.tensor([0.0, 0.3, 1.7], dtype=torch.float64)
    values, slopes, curvatures = derivatives(lambda x: x.pow(3).view(1, -1, 1), x)
    for found, wanted in ((values, x**3), (slopes, 3 * x**2), (curvatures, 6 * x)):
        np.testing.assert_allclose(found.flatten(), wanted, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-6)])
def test_values_and_slopes(dtype, tolerance):
    tables = tabulate(waves, 5.0, dtype=dtype, tolerance=1e-8)
    assert max(tables.error) < 1e-8
    x = torch.rand(1000, dtype=torch.float64) * 5.0
    values, slopes, _ = derivatives(waves, x)
    for table, exact in ((tables.values, values), (tables.slopes, slopes)):
        assert table.dtype == dtype
        found = read(table, tables, x.to(dtype))
        assert float((found - exact).abs().max() / exact.abs().max()) < tolerance


def test_knots_are_exact_and_the_end_lasts():
    def falling(x):
        return (2.0 - x).clamp(min=0.0).pow(3).view(1, -1, 1)

    tables = tabulate(falling, 2.0, dtype=torch.float64, spacing=0.5, tolerance=1e-3, ends_at_zero=True)
    x = torch.tensor([0.0, tables.spacing, 2.0 - 1e-9, 2.0, 2.5, 1e6], dtype=torch.float64)
    found = read(tables.values, tables, x).flatten()
    np.testing.assert_allclose(found, [8.0, (2.0 - tables.spacing) ** 3, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(found[-3:], 0.0)
    np.testing.assert_array_equal(read(tables.slopes, tables, x).flatten()[-3:], 0.0)


def test_what_is_too_rough_is_refused():
    with pytest.raises(ModelError, match="changes too fast for a table"):
        tabulate(lambda x: torch.sin(1e5 * x).view(1, -1, 1), 6.0, dtype=torch.float32)
