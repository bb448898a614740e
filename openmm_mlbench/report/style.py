"""How figures look: one colour, marker and dash for each model, on a page in both themes and on paper.

A figure is drawn once, as wide as a column of a journal.  In the page its colours become CSS
variables, so that it follows the reader's light or dark theme; as PNG and PDF it stays as it is.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_mlbench.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A column of a journal, inches.
WIDTH = 3.5
DPI = 300


@dataclass(frozen=True, kw_only=True)
class ModelStyle:
    """How one model is drawn everywhere: told apart by colour, by marker and by dash.

    Args:
        light: colour on white.
        dark: on the dark page.
        marker: of points.
        dash: of lines.
        variable: CSS variable with the colour.
    """

    light: str
    dark: str
    marker: str
    dash: Any
    variable: str


def _style(
    variable: str, light: str, dark: str, marker: str, dash: str | tuple[int, tuple[float, ...]]
) -> ModelStyle:
    return ModelStyle(light=light, dark=dark, marker=marker, dash=dash, variable=variable)


# Six of Okabe and Ito's colours, told apart with every kind of colour vision, and a violet.
STYLES = {
    "deeppot-se": _style("m1", "#0072b2", "#4aa8e0", "o", "-"),
    "schnet": _style("m2", "#c97f00", "#f0b030", "s", (0, (5, 1.5))),
    "dimenet": _style("m3", "#009e73", "#2fc79b", "^", (0, (1.5, 1))),
    "forcenet": _style("m4", "#b8578f", "#dd8fbb", "D", (0, (5, 1.5, 1, 1.5))),
    "gemnet-t": _style("m5", "#2f94cc", "#86cdf5", "v", (0, (8, 2))),
    "gemnet-dt": _style("m6", "#d55e00", "#ff8a3d", "P", (0, (3, 1, 1, 1, 1, 1))),
    "nequip": _style("m7", "#5b3fa8", "#a48ff0", "X", (0, (2, 2))),
}
# Of models without a known architecture, in their order.
OTHERS = (
    _style("m8", "#6b6f76", "#a9b0b8", "h", "-"),
    _style("m9", "#7a5c1e", "#c9a45c", "<", (0, (4, 2))),
    _style("m10", "#3d7a3d", "#82c282", ">", (0, (1, 1.2))),
    _style("m11", "#8c3b3b", "#e08a8a", "p", (0, (6, 2, 1, 2))),
)
# Colours with a role: variable, on white, on the dark page.
INK = "#1b1f24"
SOFT = "#57606a"
GRID = "#e3e6ea"
LIMIT = "#b00020"
GROUND = "#fdfdfe"
ROLES = {
    "ink": (INK, "#e8eaed"),
    "soft": (SOFT, "#a0a8b2"),
    "grid": (GRID, "#30363d"),
    "limit": (LIMIT, "#ff7b82"),
    "ground": (GROUND, "#14171b"),
}
# Replicas of one model.
REPLICA_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))

_RC: Any = {
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify_threshold": 0.3,
    # A name of somebody's model is no formula.
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}


class Palette:
    """Styles of all models of one report.

    Args:
        models: architectures, or ids of models without one, in the order of the report.
    """

    def __init__(self, models: Sequence[str]) -> None:
        unknown = [model for model in dict.fromkeys(models) if model not in STYLES]
        self._others = {model: OTHERS[i % len(OTHERS)] for i, model in enumerate(unknown)}

    def __getitem__(self, model: str) -> ModelStyle:
        return STYLES.get(model) or self._others.get(model) or OTHERS[0]


def css_variables(theme: str) -> str:
    """Declarations of all colours in one theme, ``light`` or ``dark``."""
    place = ("light", "dark").index(theme)
    roles = [f"--{name}: {colours[place]};" for name, colours in ROLES.items()]
    models = [f"--{s.variable}: {(s.light, s.dark)[place]};" for s in (*STYLES.values(), *OTHERS)]
    return " ".join([*roles, *models])


@contextmanager
def drawing() -> Iterator[None]:
    """Within it figures are made and drawn in this style."""
    import matplotlib as mpl

    with mpl.rc_context(_RC), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn by the browser's own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def to_svg(figure: "Figure", name: str, alt: str, links: dict[str, str] | None = None) -> str:
    """The figure as SVG for a page.

    Args:
        figure: drawn within ``drawing``.
        name: unique in the page.
        alt: what it shows, for who cannot see it.
        links: target of a link -> what it says.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    # The salt keeps ids of two figures apart, and one figure the same in every run.
    with drawing(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Of coordinates only: a number in a label stays as it is.
    text = re.sub(r'\b(?:d|x|y|x1|y1|x2|y2|width|height|points|transform)="[^"]*"', _shorter, text)
    text = _in_variables(text)
    # Ids of matplotlib's groups are the same in every figure.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for target, said in (links or {}).items():
        # Matplotlib would open them in a window of their own.
        opening = f'<a xlink:href="{html.escape(target)}" target="_blank">'
        text = text.replace(
            opening, f'<a href="{html.escape(target)}"><title>{html.escape(said, quote=False)}</title>'
        )
    text = re.sub(r"\n\s*", "\n", text)
    role = "group" if links else "img"
    label = f'role="{role}" aria-label="{html.escape(alt)}"'
    head = re.match(r"<svg[^>]*>", text, flags=re.DOTALL)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    opening = f'<svg class="plot" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} {label}>'
    return opening + text[head.end() :].strip()


def _shorter(attribute: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point."""
    return re.sub(
        r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), attribute[0]
    )


def _in_variables(text: str) -> str:
    colours = {light: f"var(--{name})" for name, (light, _) in ROLES.items()}
    colours |= {style.light: f"var(--{style.variable})" for style in (*STYLES.values(), *OTHERS)}
    pattern = re.compile("|".join(map(re.escape, colours)), flags=re.IGNORECASE)
    return pattern.sub(lambda found: colours[found[0].lower()], text)


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """The figure as PNG and PDF on white."""
    written = []
    with drawing():
        for ending in ("png", "pdf"):
            path = folder / f"{name}.{ending}"
            metadata = {"Software": None} if ending == "png" else {"CreationDate": None, "Producer": None}
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=ending, dpi=DPI, facecolor="white", metadata=metadata)
            written.append(path)
    return written
