"""Makes the reference observables of water: python make.py POTENTIAL RUN GENTLE_RUN.

POTENTIAL is spcfw-mdsim or spcfw; RUN and GENTLE_RUN are folders for two simulations of it,
1 ns with the coupling of the paper's code and 300 ps with a gentle one.  Both go on where they
were interrupted.  Written beside this file: RDFs and diffusivity of the first run, as
`openmm-mlbench measure` defines them, and the temperatures of both.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from openmm_mlbench.files import write_text
from openmm_mlbench.measuring.diffusivity import DiffusivityOptions, measure_diffusivity
from openmm_mlbench.measuring.log import read_any_log
from openmm_mlbench.measuring.measurement import Source
from openmm_mlbench.measuring.rdf import measure_rdf
from openmm_mlbench.measuring.run_measurements import dynamics_of
from openmm_mlbench.measuring.run_reference import rdf_floor_tables
from openmm_mlbench.metrics.temperature import temperature_result
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.run_folder import read_run
from openmm_mlbench.selections import load_topology
from openmm_mlbench.trajectory_stream import open_trajectory
from openmm_mlbench.workflow import find_model, simulate

HERE = Path(__file__).resolve().parent
LENGTHS_PS = {"water": 1000.0, "water-gentle": 300.0}
EQUILIBRATION_PS = 10.0
LAG_PS = 100.0
# Quoted for SPC/Fw at 298 K, not checked against its publication: for the finite-size correction only.
VISCOSITY_MPA_S = 0.75
DIGITS = 5
# A frame every 0.1, 0.2, 0.5 and 1 ps.
STRIDES = (1, 2, 5, 10)


def main(potential: str, *runs: str) -> None:
    """Simulate what is missing, measure, write."""
    model = find_model(potential)
    for (name, length), folder in zip(LENGTHS_PS.items(), runs, strict=True):
        # A finished run stays as it is: with a reference there, it would now be watched against that.
        if is_finished(Path(folder), length):
            continue
        simulate(
            load_protocol(name),
            model,
            folder,
            replicas=1,
            length_ps=length,
            platform="CPU",
            resume=Path(folder).exists(),
        )
    write_observables(potential, Path(runs[0]))
    write_temperatures(potential, [Path(folder) for folder in runs])


def is_finished(run: Path, length_ps: float) -> bool:
    """Whether a run has its full length."""
    path = run / "replica-0" / "status.json"
    if not path.is_file():
        return False
    status = json.loads(path.read_text())
    return status["state"] == "finished" and status["length_ps"] >= length_ps


def commands(potential: str) -> list[str]:
    """What made the two runs."""
    return [
        f"openmm-mlbench simulate {name} --model {potential} --length {length:g} --replicas 1 --platform CPU -o RUN"
        for name, length in LENGTHS_PS.items()
    ]


def write_observables(potential: str, run: Path) -> None:
    """RDFs and diffusivity, in both modes."""
    dataset = find_model(potential).dataset
    source = source_of(run)
    provenance = {"commands": commands(potential)[:1], "script": "make.py", **facts(run)}
    oxygens = source.topology.select("element O")
    for mode, ending in (("paper", ""), ("mdsim", "-mdsim")):
        pairs = source.topology.pairs("O-O,H-H,H-O")
        grid = {"r_max_A": 6.0, "n_bins": 500, "mode": mode}
        rdf = measure_rdf(source, pairs, **grid).measurement.as_json()
        rdf["inputs"]["noise_floors"] = rdf_floor_tables(source, pairs, **grid, piece_ps=1.0, strides=STRIDES)
        options = DiffusivityOptions(mode=mode, lag_ps=LAG_PS)
        diffusivity = measure_diffusivity(source, oxygens, options).measurement.as_json()
        if mode == "paper":
            corrected = DiffusivityOptions(lag_ps=LAG_PS, viscosity_mPa_s=VISCOSITY_MPA_S)
            estimate = measure_diffusivity(source, oxygens, corrected).measurement.as_json()
            diffusivity["inputs"]["finite_size_correction"] = {
                "method": "Yeh and Hummer (2004), with the published viscosity of SPC/Fw",
                "viscosity_mPa_s": VISCOSITY_MPA_S,
                "correction_1e-9_m2_s": estimate["results"][-1]["value"],
                "corrected_1e-9_m2_s": estimate["results"][0]["value"],
            }
        # Floors are in the table, and blocks would be most of the file.
        rdf["curves"] = {name: line for name, line in rdf["curves"].items() if "block" not in name}
        # Diffusion feels the thermostat.
        diffusivity["inputs"]["dynamics"] = dynamics_of(read_run(run))
        save(f"{dataset}-rdf{ending}", rdf, provenance)
        save(f"{dataset}-diffusivity{ending}", diffusivity, provenance)


def write_temperatures(potential: str, runs: list[Path]) -> None:
    """Means of both runs, with standard errors."""
    record = {
        "temperature": {name: temperature_of(run) for name, run in zip(LENGTHS_PS, runs, strict=True)},
        "inputs": {},
    }
    save(
        f"{find_model(potential).dataset}-temperature",
        record,
        {"commands": commands(potential), "script": "make.py"},
    )


def source_of(run: Path) -> Source:
    """The trajectory of a run, its first picoseconds left out."""
    settings = read_run(run)
    topology = load_topology(run / "topology.pdb")
    file = open_trajectory(
        run / "replica-0" / "trajectory.dcd",
        topology.atomic_numbers,
        settings.frame_interval_ps,
        topology_path=run / "topology.pdb",
    )
    return Source(topology=topology, files=[file], start_ps=EQUILIBRATION_PS)


def facts(run: Path) -> dict:
    """What decided the run."""
    record = json.loads((run / "run.json").read_text())
    kept = (
        "model",
        "seed",
        "integrator_seeds",
        "start_frames",
        "start_frame_indices",
        "platform",
        "versions",
    )
    status = json.loads((run / "replica-0" / "status.json").read_text())
    return {key: record[key] for key in kept} | {"steps_per_second": status["steps_per_second"]}


def temperature_of(run: Path) -> dict:
    """Mean kinetic temperature with its standard error."""
    log = read_any_log(run / "replica-0" / "log.csv", start_ps=EQUILIBRATION_PS)
    result, _ = temperature_result("temperature", [log["temperature"]])
    return asdict(result) | facts(run)


def save(name: str, record: dict, provenance: dict) -> None:
    """One file with few digits and without line breaks: it is read by programs."""
    for curve in record.get("curves", {}).values():
        for axis in "xy":
            curve[axis] = [float(f"{value:.{DIGITS}g}") for value in curve[axis]]
    record["inputs"] = {
        key: value for key, value in record["inputs"].items() if key not in {"topology", "trajectories"}
    } | {"made_by": provenance}
    path = HERE / f"{name}.json"
    write_text(path, json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
