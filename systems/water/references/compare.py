"""Our RDFs beside the measured ones: python compare.py SOPER_FILE [FIGURE.png].

SOPER_FILE has columns r (A), gOO, error, gOH, error, gHH, error (Soper, ISRN Phys. Chem. 2013,
279463); it does not ship.  Printed: the integral of |g - g_measured| over r, 0 to 6 A, where only
pairs of different molecules count, and the first peaks.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DATASETS = {"water-1k": "SPC/Fw, doubled force constants", "water-spcfw-1k": "SPC/Fw"}
# Column of the measured curve, where pairs within a molecule end and where the first peak ends, A.
PAIRS = {"O-O": (1, 0.0, 3.3), "H-H": (5, 1.9, 3.0), "H-O": (3, 1.3, 2.4)}


def ours(dataset: str, pair: str) -> tuple[np.ndarray, np.ndarray]:
    """Middles of bins, A, and g(r) of a shipped reference."""
    curve = json.loads((HERE / f"{dataset}-rdf.json").read_text())["curves"][pair]
    return np.array(curve["x"]), np.array(curve["y"])


def compare(measured: np.ndarray) -> dict[tuple[str, str], dict[str, float]]:
    """Distances of our curves to the measured ones, and first peaks between molecules."""
    numbers = {}
    for dataset in DATASETS:
        for pair, (column, start, end) in PAIRS.items():
            r, g = ours(dataset, pair)
            between = r > start
            r, g = r[between], g[between]
            expected = np.interp(r, measured[:, 0], measured[:, column])
            error = np.interp(r, measured[:, 0], measured[:, column + 1])
            width = r[1] - r[0]
            first, first_measured = np.where(r < end, [g, expected], 0)
            numbers[dataset, pair] = {
                "mae_A": float(np.abs(g - expected).sum() * width),
                "error_of_measurement_A": float(error.sum() * width),
                "peak_r_A": float(r[first.argmax()]),
                "peak_g": float(first.max()),
                "measured_peak_r_A": float(r[first_measured.argmax()]),
                "measured_peak_g": float(first_measured.max()),
            }
    return numbers


def draw(measured: np.ndarray, path: Path) -> None:
    """Three panels: ours, and the measured curve with its error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, (pair, (column, start, _)) in zip(figure.subplots(1, 3), PAIRS.items(), strict=True):
        r, g, error = measured[:, 0], measured[:, column], measured[:, column + 1]
        ax.fill_between(r, g - error, g + error, color="0.8", lw=0)
        ax.plot(r, g, color="k", lw=1, label="measured (Soper 2013)")
        for dataset, label in DATASETS.items():
            x, y = ours(dataset, pair)
            ax.plot(x[x > start], y[x > start], lw=1, label=label)
        ax.set(title=pair, xlabel="r / Å", xlim=(1.2, 6), ylim=(0, 3.6))
    figure.axes[0].set_ylabel("g(r)")
    figure.axes[0].legend(fontsize=7, loc="upper right")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    soper = np.loadtxt(sys.argv[1])
    for (dataset, pair), found in compare(soper).items():
        print(dataset, pair, *(f"{key} {value:.3f}" for key, value in found.items()))
    if len(sys.argv) > 2:
        draw(soper, Path(sys.argv[2]))
