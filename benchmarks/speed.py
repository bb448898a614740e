"""How fast every model is in every loop -> benchmarks/results/speed.json and speed.png.

python benchmarks/speed.py                                    everything that is shipped, and fresh
                                                              networks at the paper's sizes (an hour or two)
python benchmarks/speed.py schnet ethanol/schnet --systems ethanol aspirin --seconds 5
python benchmarks/speed.py --platform CUDA                    on a GPU; its entries stand beside the others

A thin wrapper over openmm_mlbench.speed, which `openmm-mlbench speed MODEL` calls too.  Entries that
were measured before stay unless they are measured again; each is written as soon as it is there.
"""

import argparse
import sys
from pathlib import Path

from record import RESULTS, provenance

from openmm_mlbench.errors import MLBenchError
from openmm_mlbench.export.archive import list_archives
from openmm_mlbench.files import write_json
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.speed import tables
from openmm_mlbench.speed.cases import SYSTEMS
from openmm_mlbench.speed.plots import save_plot
from openmm_mlbench.speed.program import machine, measure, merge, read_entries
from openmm_mlbench.speed.variants import VARIANTS


def jobs(models: list[str], systems: list[str] | None) -> list[tuple[str, str | None]]:
    """(model, system); fresh networks run on every system, trained ones on their own."""
    return [
        (model, system)
        for model in models or [*ARCHITECTURES, *list_archives()]
        for system in systems or (list(SYSTEMS) if model in ARCHITECTURES else [None])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="ids, .pt files, or architectures")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each model on each system")
    parser.add_argument("--platform", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scaling", action="store_true", help="also in boxes eight times as large")
    parser.add_argument("--without", nargs="+", choices=list(VARIANTS)[1:], default=[])
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for model, system in jobs(arguments.models, arguments.systems):
        try:
            entry = measure(
                model,
                system,
                seconds=arguments.seconds,
                platform=arguments.platform,
                threads=arguments.threads,
                without=arguments.without,
                scaling=arguments.scaling,
                note=note,
            )
        except MLBenchError as error:
            note(f"{model} on {system}: {error}")
            continue
        origin = provenance()
        entry.update(machine=machine(), commit=origin["commit"], date=origin["date"])
        entries = tables.sort(merge(read_entries(arguments.out), [entry]))
        write_json(arguments.out, {**origin, "entries": entries})
        save_plot(
            [e for e in entries if e["platform"] == entry["platform"]], arguments.out.with_suffix(".png")
        )
    print(arguments.out)


if __name__ == "__main__":
    main()
