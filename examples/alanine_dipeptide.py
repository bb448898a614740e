"""Alanine dipeptide: the free energy of its backbone angles by metadynamics.

    python examples/alanine_dipeptide.py --length 500

AMBER ff03 in implicit water, rigid bonds to hydrogen, 2 fs: 6 runs from six minima, hills on phi and psi every 1 ps.  6 x 500 ps take a
few minutes on one core; the paper runs 5 ns each.  A learned force field goes the same way: --model MODEL.
"""

import argparse
from pathlib import Path

import numpy as np

from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.workflow import find_model, measure, simulate


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="amber03-obc")
    parser.add_argument("--length", type=float, default=500.0, help="of each run, ps")
    parser.add_argument("--replicas", type=int, default=6)
    parser.add_argument(
        "--out", type=Path, default=Path("alanine-dipeptide-run"), help="goes on with what is there"
    )
    arguments = parser.parse_args()

    protocol = load_protocol("alanine-dipeptide")
    statuses = simulate(
        protocol,
        find_model(arguments.model),
        arguments.out,
        replicas=arguments.replicas,
        length_ps=arguments.length,
        resume=arguments.out.exists(),
        note=print,
    )
    finished = sum(status.state == "finished" for status in statuses)
    print(f"{finished} of {len(statuses)} runs finished")
    measured = {m["observable"]: m for m in measure(arguments.out)["measurements"]}
    for angle in ("phi", "psi"):
        curves = [
            curve
            for name, curve in measured["free_energy"]["curves"].items()
            if name.startswith(f"F_{angle} replica")
        ]
        degrees = np.degrees(curves[0]["x"])
        profiles = [np.array([np.nan if y is None else y for y in curve["y"]]) for curve in curves]
        mean = np.nanmean(profiles, axis=0)
        spread = np.nanmean(np.nanstd(profiles, axis=0, ddof=1)) if len(profiles) > 1 else float("nan")
        lowest = degrees[np.nanargmin(mean)]
        print(
            f"F({angle}): lowest at {lowest:.0f} degrees; runs differ by {spread:.1f} kJ/mol (standard deviation)"
        )
        for place in range(0, len(mean), 5):
            bar = "" if np.isnan(mean[place]) else "#" * round(mean[place] - np.nanmin(mean))
            print(f"  {degrees[place]:7.0f}  {bar}")


if __name__ == "__main__":
    main()
