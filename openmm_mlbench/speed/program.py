"""The speed program: measures models on systems, and derives what a reader asks for."""

import math
import os
import platform as host
from collections.abc import Callable, Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from openmm_mlbench.data.datasets import cache_folder
from openmm_mlbench.files import read_json
from openmm_mlbench.simulation.batching import Layout
from openmm_mlbench.simulation.platforms import available_threads
from openmm_mlbench.speed.cases import Case, make_case, repeated_box
from openmm_mlbench.speed.clocks import Timing, take_turns
from openmm_mlbench.speed.operators import computing, count_operators, data_dependent
from openmm_mlbench.speed.variants import COPIES, Windows, call_window

PACKAGES = ("openmm", "openmmtorch", "openmmml", "torch", "ase", "numpy")
Note = Callable[[str], None]
Record = dict[str, Any]


def machine() -> Record:
    """Processor, GPU, threads and versions; no names of hosts or users."""
    model = host.processor() or host.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": host.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def measure(
    model: str,
    system: str | None = None,
    *,
    seconds: float = 20.0,
    window_s: float = 0.1,
    platform: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    most_threads: int | None = None,
    original: Path | None = None,
    without: Collection[str] = (),
    scaling: bool = False,
    note: Note = lambda _: None,
) -> Record:
    """One entry: a model on a system.

    Args:
        model: id of a shipped model, path, or architecture, which gets fresh weights at the paper's size.
        system: see :data:`openmm_mlbench.speed.cases.SYSTEMS`; the model's own if None.
        seconds: of the timed part, unless three rounds take longer.
        window_s: length of a window.
        platform: of OpenMM.
        precision: of the platform, or ``auto``.
        threads: of torch and of the CPU platform.
        most_threads: that five replicas in one Context, and one replica beside them, also run on; all that a run
            may use if None.
        original: of an imported model, the file that OpenMM-ML shall read.
        without: variants that shall be left out.
        scaling: also measure how the time grows with the box, where there is one.
        note: hears of the progress.

    Raises:
        MLBenchError: the model, system or platform is not there.
    """
    most_threads = available_threads() if most_threads is None else most_threads
    torch.set_num_threads(threads)
    # Beside what is compiled for them.
    folder = cache_folder() / "fresh"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    case = make_case(model, system, folder)
    windows = Windows(
        case,
        platform=platform,
        precision=precision,
        threads=threads,
        most_threads=most_threads,
        original=original,
        without=without,
        note=note,
    )
    timings = take_turns(windows.windows, seconds=seconds, window_s=window_s, note=note)
    torch.set_num_threads(threads)
    counts = count_operators(windows.call)
    growth = (
        scaling_exponent(windows.case, windows.device, seconds=seconds)
        if scaling and case.box_nm is not None
        else None
    )
    return {
        "model": model,
        "architecture": case.potential.card.model,
        "system": case.system,
        "n_atoms": len(case.positions_nm),
        "weights": case.weights,
        "n_parameters": case.potential.card.n_parameters,
        "hyperparameters": case.potential.card.hyperparameters,
        "platform": windows.platform,
        "properties": windows.properties,
        "device": "cpu" if windows.device.type == "cpu" else torch.cuda.get_device_name(),
        "timestep_fs": case.timestep_fs,
        "threads": threads,
        "variants": {name: timing.as_dict() for name, timing in timings.items()},
        "missing": windows.missing,
        "operators": {
            "executed": sum(counts.values()),
            "computing": computing(counts),
            "data_dependent": data_dependent(counts),
        },
        "batching": _batching(timings, windows),
        "scaling": growth,
        "derived": derive(timings, on_gpu=windows.device.type == "cuda"),
    }


def scaling_exponent(case: Case, device: torch.device, *, times: int = 2, seconds: float = 5.0) -> Record:
    """How the time of a network call grows between a box and the same repeated along each lattice vector.

    t(n) ~ n^exponent.  Two sizes say roughly what a series of boxes says (benchmarks/scaling.py).

    Args:
        case: in a box.
        device: that the network is called on.
        times: repetitions along each lattice vector.
        seconds: of the timed part.
    """
    windows = {}
    for number in (1, times):
        numbers, positions, box = repeated_box(case, number)
        module = torch.jit.freeze(case.potential.module(numbers, periodic=True).to(device).eval())
        arguments = [torch.as_tensor(value, device=device) for value in (positions, box)]
        windows[len(numbers)] = call_window(module, arguments)
    timings = take_turns(windows, seconds=seconds)
    on_gpu = device.type == "cuda"
    us = {n_atoms: t.wall_us_min if on_gpu else t.process_us_min for n_atoms, t in timings.items()}
    (few, fast), (many, slow) = us.items()
    return {
        "exponent": round(math.log(slow / fast) / math.log(many / few), 3),
        "us": {str(n_atoms): round(value, 1) for n_atoms, value in us.items()},
    }


def _batching(timings: dict[str, Timing], windows: Windows) -> Record:
    """Steps of replicas per second in one Context over those of one replica, or why there is no number.

    Each on the threads that are the fastest for it.
    """
    if "5 replicas" not in timings:
        return {"gain": None, "reason": windows.missing.get("5 replicas", "not measured")}
    more = "5 replicas, more threads" in timings
    # Process time counts what every thread does.
    on_wall = more or windows.device.type == "cuda"
    layouts = {
        "": Layout(windows.threads),
        ", more threads": Layout(windows.most_threads),
        ", side by side": Layout(windows.threads, windows.groups(windows.most_threads)),
    }
    us: dict[str, dict[Layout, float]] = {"torchforce": {}, "5 replicas": {}}
    for name, found in us.items():
        for suffix, layout in layouts.items():
            timing = timings.get(name + suffix)
            if timing is not None:
                found[layout] = timing.wall_us_min if on_wall else timing.process_us_min
    best = {name: min(values, key=values.__getitem__) for name, values in us.items()}
    one, together = (us[name][best[name]] for name in ("torchforce", "5 replicas"))
    same = COPIES * us["torchforce"][layouts[""]] / us["5 replicas"][layouts[""]]
    return {
        "gain": round(COPIES * one / together, 3),
        "threads": best["5 replicas"].threads,
        "groups": best["5 replicas"].groups,
        "threads_alone": best["torchforce"].threads,
        "gain_on_the_same_threads": round(same, 3),
        "reason": "",
    }


def derive(timings: dict[str, Timing], *, on_gpu: bool = False) -> Record:
    """Overheads and ratios; None where a variant is missing.

    On a processor from the least process time, which other programs disturb less; on a GPU from wall time.
    ``engine_us`` is a step on a module that computes nothing.  The difference between a step and a call of
    the network from Python stands beside it: of slow models it is a small difference of large numbers.
    """
    us = {name: t.wall_us_min if on_gpu else t.process_us_min for name, t in timings.items()}
    step = us.get("torchforce")

    def ratio(slow: str, fast: str) -> float | None:
        return round(us[slow] / us[fast], 3) if slow in us and fast in us else None

    engine = us.get("engine")
    difference = us["torchforce"] - us["network"] if "torchforce" in us and "network" in us else None
    wall = timings["torchforce"].wall_us_min if "torchforce" in timings else None
    return {
        "steps_per_second": None if wall is None else round(1e6 / wall, 2),
        "engine_us": None if engine is None else round(engine, 2),
        "engine_fraction": None if engine is None or step is None else round(engine / step, 5),
        "step_minus_network_us": None if difference is None else round(difference, 2),
        "gain_over_autograd": ratio("torchforce, autograd", "torchforce"),
        "gain_over_ase": ratio("ase", "torchforce"),
        "gain_over_ase_autograd": ratio("ase, autograd", "torchforce"),
        "gain_of_pythonforce": ratio("torchforce", "pythonforce"),
        "gain_over_openmm_ml": ratio("openmm-ml", "torchforce"),
        # Above 1: something else ran.
        "busy": None if wall is None else round(timings["torchforce"].wall_us_median / wall, 3),
    }


def key_of(entry: Record) -> tuple[Any, ...]:
    """What makes two entries measurements of one thing."""
    return tuple(entry[name] for name in ("model", "system", "weights", "platform", "device", "threads"))


def merge(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Entries in which each new one has taken the place of an old one of the same thing."""
    merged = {key_of(entry): entry for entry in old}
    merged.update({key_of(entry): entry for entry in new})
    return list(merged.values())


def read_entries(path: Path) -> list[Record]:
    """Entries of an earlier record, none where there is no file."""
    return list(read_json(path)["entries"]) if path.is_file() else []
