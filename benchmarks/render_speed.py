"""The tables of docs/speed.md, and that of README.md, from benchmarks/results/speed*.json and scaling.json.

Microseconds are least process time where a processor ran, which other programs disturb less than wall
time, and least wall time where a GPU ran; steps per second are wall time.
"""

from typing import Any

Record = dict[str, Any]
MISSING = "\N{EN DASH}"
NOT_MEASURED = "not measured"
ON_GPU = ("CUDA", "OpenCL", "HIP")


def table(heads: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table; the first columns stand left, numbers right."""
    lines = [heads, ["---"] * left + ["---:"] * (len(heads) - left), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def us_of(entry: Record, variant: str) -> float | None:
    """Least time of a step, us."""
    timing = entry["variants"].get(variant)
    if timing is None:
        return None
    return timing["wall_us_min" if entry["platform"] in ON_GPU else "process_us_min"]


def us(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value < 1e5 else f"{value / 1000:,.0f} ms"


def plain(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def steps(value: float | None) -> str:
    return plain(value, 0 if (value or 0.0) >= 20 else 2)


def short_table(record: Record) -> str:
    """Trained models in README.md."""
    rows = [
        [
            f"`{entry['model']}`",
            *(us(us_of(entry, name)) for name in ("network", "torchforce", "torchforce, autograd")),
            *(us(us_of(entry, name)) for name in ("pythonforce", "ase", "ase, autograd", "engine")),
            steps(entry["derived"]["steps_per_second"]),
        ]
        for entry in record["entries"]
        if entry["weights"] == "trained" and entry["system"] == "ethanol"
    ]
    heads = [
        *("Microseconds", "Network alone", "OpenMM, TorchForce", "The same, autograd", "OpenMM, PythonForce"),
        *("ASE, same module", "ASE, autograd", "Engine alone", "Steps/s, wall time"),
    ]
    return table(heads, rows)


def loops_table(record: Record) -> str:
    """Every entry, with what is derived."""
    rows = [
        [
            f"`{entry['model']}`",
            f"{entry['system']} ({entry['n_atoms']})",
            entry["platform"],
            *(us(us_of(entry, name)) for name in ("network", "torchforce", "pythonforce", "ase")),
            us(us_of(entry, "ase, autograd")),
            us(us_of(entry, "openmm-ml")),
            plain(entry["derived"]["engine_us"], 0),
            plain(100 * (entry["derived"]["engine_fraction"] or 0.0), 2) + " %",
            plain(entry["derived"]["gain_over_autograd"]),
            plain(entry["derived"]["gain_over_ase"]),
            plain(entry["derived"].get("gain_over_ase_autograd")),
            batching(entry["batching"]),
            f"{entry['operators']['executed']}",
            plain((entry.get("scaling") or {}).get("exponent")),
            steps(1e6 / (us_of(entry, "torchforce") or float("inf"))),
            steps(entry["derived"]["steps_per_second"]),
            plain(entry["derived"]["busy"]),
        ]
        for entry in record["entries"]
    ]
    heads = [
        *("Model", "System (atoms)", "Platform", "Network, us", "TorchForce", "PythonForce"),
        *("ASE, same module", "ASE, autograd", "OpenMM-ML", "Engine", "Of the step", "Over autograd"),
        *(
            "Over ASE, same module",
            "Over ASE, autograd",
            "5 replicas (threads)",
            "Operations",
            "Growth",
            "Steps/s",
            "Wall",
            "Busy",
        ),
    ]
    return table(heads, rows, left=3)


def batching(found: Record) -> str:
    """Gain of five replicas in one Context, with the threads or groups of the batch and the threads of the single one."""
    if found["gain"] is None or "threads" not in found:
        return plain(found["gain"])
    groups = found.get("groups", 1)
    together = f"{groups} groups" if groups > 1 else found["threads"]
    return f"{found['gain']:.2f} ({together} / {found['threads_alone']})"


def _find(record: Record, gpu: bool, **wanted: Any) -> Record | None:
    found = [
        entry
        for entry in record["entries"]
        if (entry["platform"] in ON_GPU) == gpu
        and all(entry[name] == value for name, value in wanted.items())
    ]
    return found[-1] if found else None


# Steps per second on one modern GPU.
GPU_SPEEDS = {
    ("schnet", "aspirin"): 2000,
    ("deeppot-se", "aspirin"): 2000,
    ("forcenet", "aspirin"): 2000,
    ("gemnet-dt", "aspirin"): 600,
    ("gemnet-t", "aspirin"): 300,
    ("dimenet", "aspirin"): 250,
    ("nequip", "aspirin"): 400,
    ("schnet", "water"): 800,
    ("nequip", "water"): 100,
}


def _row(
    target: str, wanted: float, found: float | None, *, most: bool = False, digits: int = 2
) -> list[str]:
    if found is None:
        return [target, f"{'at most' if most else 'at least'} {wanted:g}", NOT_MEASURED, ""]
    fine = found <= wanted if most else found >= wanted
    return [
        target,
        f"{'at most' if most else 'at least'} {wanted:g}",
        f"{found:,.{digits}f}",
        "yes" if fine else "**no**",
    ]


def targets_table(record: Record) -> str:
    """Every target with the value of this record; fresh networks at the paper's sizes."""
    cpu = [entry for entry in record["entries"] if entry["platform"] not in ON_GPU]
    reference = [entry for entry in cpu if entry["platform"] == "Reference"]
    engines = [e["derived"]["engine_us"] for e in reference if e["derived"]["engine_us"] is not None]
    slow = [
        e["derived"]["engine_fraction"]
        for e in reference
        if (us_of(e, "torchforce") or 0.0) >= 1000 and e["derived"]["engine_fraction"] is not None
    ]
    rows = [
        _row("Engine per step on Reference, us (largest of all)", 40, max(engines, default=None), most=True),
        _row(
            "Engine, % of the step where that takes 1 ms or more (largest)",
            5,
            100 * max(slow) if slow else None,
            most=True,
        ),
    ]
    names = list(dict.fromkeys(model for model, _ in GPU_SPEEDS))
    for model in names:
        one = _find(record, False, model=model, system="ethanol", weights="fresh") or {}
        derived = one.get("derived", {})
        rows += [
            _row(
                f"{model}, ethanol: over an ASE loop with the same weights in eager PyTorch and run-time autograd",
                1.5,
                derived.get("gain_over_ase_autograd"),
            ),
            _row(
                f"{model}, ethanol: over an ASE loop that calls our own exported module",
                1.5,
                derived.get("gain_over_ase"),
            ),
            _row(f"{model}, ethanol: 5 replicas over one, 2 cores", 2, one.get("batching", {}).get("gain")),
            _row(f"{model}, ethanol: PythonForce over TorchForce", 1.3, derived.get("gain_of_pythonforce")),
        ]
        # Direct networks have no gradient to trace.
        if model not in ("forcenet", "gemnet-dt"):
            for system in ("ethanol", "aspirin", "water"):
                found = _find(record, False, model=model, system=system, weights="fresh") or {}
                gain = found.get("derived", {}).get("gain_over_autograd")
                rows.append(_row(f"{model}, {system}: over scripted autograd", 1.5, gain))
    for (model, system), wanted in GPU_SPEEDS.items():
        found = _find(record, True, model=model, system=system, weights="fresh")
        speed = None if found is None else found["derived"]["steps_per_second"]
        rows.append(_row(f"GPU: {model}, {system}: steps per second", wanted, speed, digits=0))
    gpu = [entry for entry in record["entries"] if entry["platform"] in ON_GPU]
    rows.append(
        _row(
            "GPU: engine per step, us",
            200,
            max((e["derived"]["engine_us"] for e in gpu if e["derived"]["engine_us"]), default=None),
            most=True,
        )
    )
    gains = [
        e["batching"]["gain"] for e in gpu if e["system"] in ("ethanol", "aspirin") and e["batching"]["gain"]
    ]
    rows.append(_row("GPU: 5 replicas of a molecule over one", 4, min(gains, default=None)))
    return table(["Target", "Wanted", "Measured", "Met"], rows, left=2)


def peers_table(record: Record) -> str:
    """Ours beside other packages' networks: us of a call with energy and forces."""
    rows = []
    for entry in record["entries"]:
        head = [f"`{entry['model']}`", entry["package"], f"{entry['system']} ({entry['n_atoms']})"]
        if "timings" not in entry:
            rows.append([*head, MISSING, MISSING, entry["why"]])
            continue
        ours, theirs = (entry["timings"][side]["process_us_min"] for side in ("ours", "theirs"))
        rows.append([*head, us(ours), us(theirs), f"{theirs / ours:.2f}"])
    return table(
        ["Network", "Beside", "System (atoms)", "Ours, us", "Theirs, us", "Theirs / ours"], rows, left=3
    )


def profile_table(record: Record) -> str:
    """The operations that take most of a call."""
    rows = []
    for one in record["profiles"]:
        most = list(one["operators"].items())[:5]
        rows.append(
            [
                f"`{one['model']}`",
                one["system"],
                f"{one['executed']}",
                f"{one['computing']}",
                ", ".join(
                    f"{name.removeprefix('aten.')} {100 * values['share']:.0f} % ({values['calls']})"
                    for name, values in most
                ),
            ]
        )
    heads = ["Network", "System", "Operations", "Of these compute", "Most of the time (calls)"]
    return table(heads, rows, left=2)


def all_pairs_table(record: Record) -> str:
    """Milliseconds with all pairs / with those within the cutoff, of molecules of more and more atoms."""
    first = record["networks"][0]["molecules"]
    rows = [
        [
            f"`{network['model']}`",
            f"{network['all_pairs_up_to']}",
            *(
                " / ".join(milliseconds(one["us"][form]) for form in ("all pairs", "within the cutoff"))
                for one in network["molecules"]
            ),
        ]
        for network in record["networks"]
    ]
    heads = ["Network", "All pairs up to", *(f"{one['molecule']} ({one['n_atoms']})" for one in first)]
    return table(heads, rows)


def milliseconds(us_per_call: float) -> str:
    """Three digits."""
    value = us_per_call / 1000.0
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def scaling_table(record: Record) -> str:
    """Growth of time and memory with the number of atoms of water."""
    rows = [
        [
            f"`{model}`",
            f"{one['n_atoms'][0]:,} to {one['n_atoms'][-1]:,}",
            plain(one["exponent"]),
            "yes" if one["exponent"] <= 1.1 else "**no**",
            plain(one["memory_exponent_from_768"]),
        ]
        for model, one in record["systems"].items()
    ]
    heads = ["Network", "Atoms", "Time grows as N to the", "At most 1.1", "Memory, from 768 atoms on"]
    return table(heads, rows, left=2)
