"""Where the time of a force call goes, network by network -> benchmarks/results/profile.json.

python benchmarks/profile_networks.py                     all seven at the paper's sizes, ethanol and water
python benchmarks/profile_networks.py dimenet --systems ethanol --top 20

Operations are timed one by one around the dispatcher, which costs each of them about a microsecond:
shares are what counts.  Views are counted, and cost little else.  One thread.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, provenance

from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.speed.cases import Case, make_case
from openmm_mlbench.speed.operators import computing, profile_operators


def profile(case: Case, calls: int) -> dict[str, Any]:
    """Counts and least times by operation of the exported module as it runs by default."""
    periodic = case.box_nm is not None
    module = torch.jit.freeze(case.potential.module(case.atomic_numbers, periodic=periodic).eval())
    arguments = [torch.as_tensor(case.positions_nm).requires_grad_()]
    if periodic:
        arguments.append(torch.as_tensor(case.box_nm))
    counts, times = profile_operators(lambda: module(*arguments), calls=calls)
    total = sum(times.values())
    ranked = sorted(times, key=lambda name: -times[name])
    return {
        "model": case.model,
        "system": case.system,
        "executed": sum(counts.values()),
        "computing": computing(counts),
        "us": round(total, 1),
        "operators": {
            name: {
                "calls": counts[name],
                "us": round(times[name], 1),
                "share": round(times[name] / total, 4),
            }
            for name in ranked
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--systems", nargs="+", default=["ethanol", "water"])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "profile.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    profiles = {(p["model"], p["system"]): p for p in _earlier(arguments.out)}
    for system in arguments.systems:
        for model in arguments.models:
            with tempfile.TemporaryDirectory() as folder:
                found = profile(
                    make_case(model, system, Path(folder)),
                    arguments.calls if system in ("ethanol", "aspirin") else 2,
                )
            profiles[model, system] = found
            print(
                f"{model} on {system}: {found['executed']} operations, {found['computing']} compute, {found['us']:.0f} us"
            )
            for name, one in list(found["operators"].items())[: arguments.top]:
                print(f"    {name:32s} {one['calls']:5d} {one['us']:10.0f} us {100 * one['share']:5.1f} %")
            write_json(arguments.out, {**provenance(), "profiles": list(profiles.values())})


def _earlier(path: Path) -> list[dict[str, Any]]:
    return list(read_json(path)["profiles"]) if path.is_file() else []


if __name__ == "__main__":
    main()
