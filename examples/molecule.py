"""A molecule: two learned force fields on ethanol, judged by the simulations they produce.

    python examples/molecule.py --length 5

5 ps take about a minute on one core.  The paper runs 5 x 300 ps: --length 300 --replicas 5.
"""

import argparse
from pathlib import Path

from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.report.page import build_report
from openmm_mlbench.workflow import measure, simulate

MODELS = ("ethanol-gfn2/schnet", "ethanol-gfn2/deeppot-se")
WANTED = ("force_mae", "stability", "h_r_mae", "temperature", "T_vib", "steps_per_second")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=float, default=5.0, help="of each run, ps")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("molecule-runs"), help="goes on with what is there")
    arguments = parser.parse_args()

    runs = []
    for model in MODELS:
        run = arguments.out / model.replace("/", "-")
        # Nose-Hoover keeps the rotation of a lone molecule as it was drawn; Langevin thermalises it.
        simulate(
            load_protocol("ethanol-langevin"),
            Potential.load(model),
            run,
            replicas=arguments.replicas,
            length_ps=arguments.length,
            resume=run.exists(),
        )
        print(model)
        for measurement in measure(run)["measurements"]:
            for result in measurement["results"]:
                if result["name"] in WANTED and result["value"] is not None:
                    error = "" if result["stderr"] is None else f" +- {result['stderr']:.2g}"
                    floor = "" if result["floor"] is None else f", floor {result['floor']:.2g}"
                    print(f"  {result['name']}: {result['value']:.4g}{error} {result['unit']}{floor}")
        runs.append(run)
    print(build_report(runs, arguments.out / "report.html"))


if __name__ == "__main__":
    main()
