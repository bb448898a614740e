"""What commands print: tables on standard output, remarks on standard error."""

import sys

from rich.console import Console
from rich.table import Table


def say(text: str) -> None:
    """One line for the user, which a pipe does not get."""
    print(text, file=sys.stderr, flush=True)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table, folded to the width of the terminal and nowhere else."""
    console = Console()
    # A pipe has no width; rows must not be folded there.
    if not console.is_terminal:
        console = Console(width=10_000)
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_columns(columns: list[str], rows: list[list[str]], chosen: list[str]) -> None:
    """The chosen columns of a table."""
    places = [columns.index(name) for name in chosen]
    print_table(chosen, [[row[place] for place in places] for row in rows])


def four_digits(value: float | None) -> str:
    """A number for a table; ``-`` for None."""
    if value is None:
        return "-"
    # Never 1e+04 for the length of a run.
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
