"""LiPS, a superionic conductor: how fast does lithium move, and does a model keep its energy?

    python examples/lips.py --length 10

The model is a classical potential, force-matched to DFT frames; a learned one goes the same way: --model MODEL.  First Nose-Hoover at
520 K, as the paper's table, then constant energy, as its Figure 5 d.  10 ps take a few minutes on one core; a diffusivity wants 50.
"""

import argparse
import dataclasses
from pathlib import Path

from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.workflow import find_model, measure, simulate


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="lips-fm")
    parser.add_argument("--length", type=float, default=10.0, help="of each run, ps")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--platform", default="auto")
    parser.add_argument("--out", type=Path, default=Path("lips-runs"), help="goes on with what is there")
    arguments = parser.parse_args()

    for name in ("lips", "lips-nve"):
        protocol = load_protocol(name)
        if arguments.length < 2 * protocol.diffusivity_lag_ps:
            # The paper's lag is too long for short runs: take the slope of the MSD instead.
            protocol = dataclasses.replace(
                protocol,
                diffusivity_lag_ps=None,
                diffusivity_start_ps=None,
                diffusivity_min_stable_ps=None,
            )
        run = arguments.out / name
        simulate(
            protocol,
            find_model(arguments.model),
            run,
            replicas=arguments.replicas,
            length_ps=arguments.length,
            platform=arguments.platform,
            resume=run.exists(),
            note=print,
        )
        print(name)
        for measurement in measure(run)["measurements"]:
            if measurement["observable"] in ("stability", "diffusivity", "drift", "temperature"):
                result = measurement["results"][0]
                error = "" if result["stderr"] is None else f" +- {result['stderr']:.2g}"
                value = (
                    result["status"]
                    if result["value"] is None
                    else f"{result['value']:.4g}{error} {result['unit']}"
                )
                print(f"  {result['name']}: {value}")


if __name__ == "__main__":
    main()
