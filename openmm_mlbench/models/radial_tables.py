"""Functions of one number as tables: what a small network of the distance gives, without evaluating it.

Between knots that are equally far apart a function is the cubic that has its values and slopes there
(Hermite).  Its derivative is a table of its own, made in the same way, because differences of neighbouring
values would lose digits in float32.  The spacing is halved until both are as close to the function as asked
for, at points where a cubic is farthest from it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from openmm_mlbench.errors import ModelError

# Largest difference of a table from its function, relative to the largest value; float32 itself has 6e-8.
TOLERANCE = 1e-6

_MOST_KNOTS = 20_000


class RadialTables(nn.Module):
    """Tables of n_tables functions of the same number, each with ``width`` outputs.

    Attributes:
        values: (n_tables, 2 * n_knots, width), the functions and, times the spacing, their slopes, in turns.
        slopes: the same of their derivatives.
        spacing: between knots; the first is at 0.
        end: of the tables.
        error: largest difference from the functions, relative to the largest value, of values and of slopes.
    """

    values: Tensor
    slopes: Tensor

    def __init__(self, values: Tensor, slopes: Tensor, spacing: float, error: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("slopes", slopes)
        self.n_knots = values.size(1) // 2
        self.spacing = spacing
        self.end = spacing * (self.n_knots - 1)
        self.error = error

    def places(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, 4) between which x (n,) lies, and their weights (n, 4); beyond the end that of the end."""
        scaled = x * (1.0 / self.spacing)
        left = torch.floor(scaled).clamp(0.0, self.n_knots - 2.0)
        t = (scaled - left).clamp(max=1.0)
        s = 1.0 - t
        weights = torch.stack(
            [(1.0 + 2.0 * t) * s * s, t * s * s, t * t * (1.0 + 2.0 * s), -t * t * s], dim=1
        )
        # NaN becomes some number here, and stays NaN in the weights.
        rows = 2 * left.to(torch.long).clamp(min=0).unsqueeze(1) + torch.arange(4, device=x.device)
        return rows, weights


def read_table(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Functions (n, width) of a table (n_rows, width) at what :meth:`RadialTables.places` returned."""
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


def derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, slopes and curvatures (n_tables, n, width) of a function at x (n,), each output one of its own x."""

    def along(y: Tensor) -> Tensor:
        # Forward mode by two passes in reverse: the first is linear in its factors.
        factors = torch.zeros_like(y, requires_grad=True)
        (back,) = torch.autograd.grad(y, x, factors, create_graph=True)
        (slopes,) = torch.autograd.grad(back, factors, torch.ones_like(back), create_graph=True)
        return slopes

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = function(x)
        slopes = along(values)
        curvatures = along(slopes)
    return values.detach(), slopes.detach(), curvatures.detach()


def tabulate(
    function: Callable[[Tensor], Tensor],
    end: float,
    *,
    dtype: torch.dtype,
    spacing: float = 0.02,
    tolerance: float = TOLERANCE,
    ends_at_zero: bool = False,
) -> RadialTables:
    """Tables of functions on [0, end].

    Args:
        function: from (n,) to (n_tables, n, width), float64, differentiable twice.
        end: of the tables.
        dtype: of the tables.
        spacing: between knots, to begin with.
        tolerance: largest difference from the function, and from its derivative, relative to the largest value.
        ends_at_zero: the function and its slope are zero from the end on.

    Raises:
        ModelError: the function is too rough for a table.
    """
    n_knots = int(end / spacing) + 2
    while n_knots < _MOST_KNOTS:
        knots = torch.linspace(0.0, end, n_knots, dtype=torch.float64)
        step = float(knots[1])
        # A function that is cut off at the end has its curvature there from inside.
        knots[-1] = end * (1.0 - 1e-12)
        values, slopes, curvatures = derivatives(function, knots)
        if ends_at_zero:
            values[:, -1], slopes[:, -1] = 0.0, 0.0
        tables = RadialTables(
            torch.stack([values, step * slopes], dim=2).flatten(1, 2),
            torch.stack([slopes, step * curvatures], dim=2).flatten(1, 2),
            step,
            (0.0, 0.0),
        )
        middles = torch.cat([knots[:-1] + part * step for part in (0.21, 0.5, 0.79)])
        rows, weights = tables.places(middles)
        errors = []
        exact_values, exact_slopes, _ = derivatives(function, middles)
        for table, exact in ((tables.values, exact_values), (tables.slopes, exact_slopes)):
            found = torch.stack([read_table(part, rows, weights) for part in table])
            errors.append(float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-30)))
        if max(errors) < tolerance:
            return RadialTables(
                tables.values.to(dtype), tables.slopes.to(dtype), step, (errors[0], errors[1])
            )
        n_knots = 2 * n_knots - 1
    raise ModelError(
        f"a radial network changes too fast for a table (error {max(errors):.1e} with {n_knots // 2} knots); "
        "use evaluation='autograd'"
    )
