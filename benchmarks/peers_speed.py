"""Energy and forces beside other packages' networks -> benchmarks/results/peers_speed.json (`make peers-speed`).

MLBENCH_PEER=pyg PYTHONPATH=.peers/pyg python benchmarks/peers_speed.py pyg [--systems ethanol aspirin water]

The same architecture at the paper's size, fresh float32 weights, the same frame, one thread, in windows that
take turns.  Ours is the exported module that a simulation runs, search for pairs included.  Theirs gets its
list of neighbours for nothing, except deepmd-kit's, which makes its own, and runs as its package deploys it:
nequip, schnetpack and deepmd-kit as frozen TorchScript, PyTorch Geometric as it is.
"""

import argparse
import importlib.metadata
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, ROOT, provenance

from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.models.neighbours import directed_edges, open_pairs, periodic_pairs
from openmm_mlbench.speed.cases import Case, make_case
from openmm_mlbench.speed.clocks import Window, take_turns
from openmm_mlbench.speed.program import machine
from openmm_mlbench.units import ANGSTROM_PER_NM

# Energy, and forces.
Call = Callable[[], tuple[Any, Any]]
Made = tuple[Call, str]


class Edges:
    """Directed edges within the cutoff, and what their vectors are beside the difference of positions."""

    def __init__(self, case: Case) -> None:
        self.cutoff = case.potential.card.cutoff_A
        self.positions = torch.as_tensor(case.positions_nm * ANGSTROM_PER_NM).float()
        self.numbers = torch.tensor(case.atomic_numbers)
        self.cell = None if case.box_nm is None else torch.as_tensor(case.box_nm * ANGSTROM_PER_NM).float()
        if self.cell is None:
            index, vectors = open_pairs(self.positions, self.cutoff)
        else:
            index, vectors = periodic_pairs(self.positions, self.cell, self.cutoff)
        self.centre, self.neighbour = directed_edges(index)
        both = torch.cat([vectors, -vectors])
        self.offsets = both - (self.positions[self.neighbour] - self.positions[self.centre])


def gradient_call(energy: Callable[[torch.Tensor], torch.Tensor], positions: torch.Tensor) -> Call:
    """Energy and forces of a function of positions."""

    def call() -> tuple[Any, Any]:
        where = positions.clone().requires_grad_()
        value = energy(where)
        return value, -torch.autograd.grad(value, where)[0]

    return call


def schnet_of_pyg(case: Case) -> Made:
    from torch_geometric.nn.models import SchNet

    edges = Edges(case)

    def graph(positions: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = positions[edges.neighbour] - positions[edges.centre] + edges.offsets
        return torch.stack([edges.neighbour, edges.centre]), torch.linalg.vector_norm(moved, dim=1)

    model = SchNet(64, 64, 6, 25, edges.cutoff, interaction_graph=graph)
    batch = torch.zeros(len(edges.numbers), dtype=torch.long)
    call = gradient_call(lambda where: model(edges.numbers, where, batch).sum(), edges.positions)
    return call, "torch_geometric.nn.models.SchNet, eager"


def dimenet_of_pyg(case: Case) -> Made:
    import torch_geometric.nn.models.dimenet as module

    if case.box_nm is not None:
        raise NotImplementedError("its DimeNet knows no periodic cells")
    edges = Edges(case)
    sender, receiver = edges.neighbour, edges.centre
    # Pairs of edges k -> j, j -> i with i not k.
    into, out = torch.nonzero(
        (receiver.unsqueeze(1) == sender.unsqueeze(0)) & (sender.unsqueeze(1) != receiver.unsqueeze(0))
    ).unbind(1)
    found = (receiver, sender, receiver[out], sender[out], sender[into], into, out)
    # What its graph library would find, without the sparse matrices that it needs.
    module.radius_graph = lambda *_, **__: torch.stack([sender, receiver])
    module.triplets = lambda *_, **__: found
    model = module.DimeNet(128, 1, 6, 8, 7, 6, output_initializer="glorot_orthogonal")
    call = gradient_call(lambda where: model(edges.numbers, where).sum(), edges.positions)
    return call, "torch_geometric.nn.models.DimeNet, eager"


def schnet_of_schnetpack(case: Case) -> Made:
    from schnetpack import properties
    from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
    from schnetpack.model import NeuralNetworkPotential
    from schnetpack.nn import CosineCutoff, GaussianRBF, shifted_softplus
    from schnetpack.representation import SchNet

    edges = Edges(case)
    model = NeuralNetworkPotential(
        representation=SchNet(
            n_atom_basis=64,
            n_interactions=6,
            radial_basis=GaussianRBF(25, edges.cutoff),
            cutoff_fn=CosineCutoff(edges.cutoff),
            n_filters=64,
        ),
        input_modules=[PairwiseDistances()],
        output_modules=[
            Atomwise(n_in=64, n_hidden=32, n_layers=2, activation=shifted_softplus, output_key="energy"),
            Forces(energy_key="energy", force_key="forces"),
        ],
    ).eval()
    # What its spkdeploy does.
    script = torch.jit.freeze(torch.jit.script(model))
    inputs = {
        properties.Z: edges.numbers,
        properties.R: edges.positions,
        properties.idx_i: edges.centre,
        properties.idx_j: edges.neighbour,
        properties.offsets: edges.offsets,
        properties.idx_m: torch.zeros(len(edges.numbers), dtype=torch.long),
        properties.n_atoms: torch.tensor([len(edges.numbers)]),
    }

    def call() -> tuple[Any, Any]:
        found = script({**inputs, properties.R: edges.positions.clone()})
        return found["energy"], found["forces"]

    return call, "schnetpack NeuralNetworkPotential with SchNet, frozen TorchScript"


def deeppot_of_deepmd(case: Case) -> Made:
    from deepmd.pt.model.model import get_model

    given = {"axis": 12, "cutoff_start": 1.0, "selection": 40, **case.potential.card.hyperparameters}
    species = sorted(set(case.atomic_numbers))
    selection = given["selection"]
    symbols = {1: "H", 6: "C", 8: "O"}
    model = get_model(
        {
            "type_map": [symbols[number] for number in species],
            "descriptor": {
                "type": "se_e2_a",
                "sel": [selection] * len(species) if isinstance(selection, int) else list(selection),
                "rcut_smth": given["cutoff_start"],
                "rcut": 6.0,
                "neuron": [25, 50, 100],
                "axis_neuron": given["axis"],
                "resnet_dt": False,
                "type_one_side": False,
                "precision": "float32",
                "seed": 1,
            },
            "fitting_net": {
                "neuron": [240, 120, 60, 30, 10],
                "resnet_dt": True,
                "precision": "float32",
                "seed": 2,
            },
        }
    ).eval()
    # What its `dp freeze` does.
    script = torch.jit.script(model)
    edges = Edges(case)
    positions = edges.positions.double().unsqueeze(0)
    kinds = torch.tensor([[species.index(number) for number in case.atomic_numbers]])
    box = None if edges.cell is None else edges.cell.double().reshape(1, 9)

    def call() -> tuple[Any, Any]:
        found = script(positions, kinds, box)
        return found["energy"], found["force"]

    return call, "deepmd.pt se_e2_a, TorchScript, its own neighbour search"


def nequip_of_nequip(case: Case) -> Made:
    import ase
    from nequip.data import AtomicDataDict, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.model import NequIPGNNModel
    from nequip.model.inference_models.torchscript import save_torchscript_model
    from nequip.nn import graph_model
    from nequip.utils.global_state import TF32_KEY, set_global_state

    set_global_state()
    edges = Edges(case)
    given = {"l_max": 3, "layers": 5, "radial_layers": 2, **case.potential.card.hyperparameters}
    symbols = [ase.data.chemical_symbols[number] for number in sorted(set(case.atomic_numbers))]
    settings = {
        "seed": 1,
        "model_dtype": "float32",
        "r_max": edges.cutoff,
        "type_names": symbols,
        "l_max": given["l_max"],
        "parity": True,
        "num_layers": given["layers"],
        "num_features": 32,
        "radial_mlp_depth": given["radial_layers"],
        "radial_mlp_width": 64,
        "avg_num_neighbors": len(edges.centre) / len(edges.numbers),
    }
    # As its `nequip-compile --mode torchscript` makes a model and its programs load it.
    from nequip.utils.compile import conditional_torchscript_mode

    with conditional_torchscript_mode(True):
        model = NequIPGNNModel(**settings).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.nequip.pth")
        metadata = {
            graph_model.R_MAX_KEY: edges.cutoff,
            graph_model.TYPE_NAMES_KEY: " ".join(symbols),
            graph_model.PER_EDGE_TYPE_CUTOFF_KEY: "",
            TF32_KEY: 0,
        }
        del metadata[graph_model.PER_EDGE_TYPE_CUTOFF_KEY]
        save_torchscript_model(model, metadata, path, torch.device("cpu"))
        script = torch.jit.freeze(torch.jit.load(path).eval())
    atoms = ase.Atoms(
        case.atomic_numbers,
        positions=edges.positions.double().numpy(),
        cell=None if edges.cell is None else edges.cell.double().numpy(),
        pbc=edges.cell is not None,
    )
    data = from_ase(atoms)
    for transform in (ChemicalSpeciesToAtomTypeMapper(symbols), NeighborListTransform(r_max=edges.cutoff)):
        data = transform(data)
    data = {key: value for key, value in data.items() if isinstance(value, torch.Tensor)}

    def call() -> tuple[Any, Any]:
        found = script(dict(data))
        return found[AtomicDataDict.TOTAL_ENERGY_KEY], found[AtomicDataDict.FORCE_KEY]

    return call, "nequip NequIPGNNModel, frozen TorchScript"


# Of each environment: packages whose versions count, and (our architecture, theirs).
PEERS: dict[str, tuple[str, list[tuple[str, Callable[[Case], Made]]]]] = {
    "pyg": ("torch_geometric", [("schnet", schnet_of_pyg), ("dimenet", dimenet_of_pyg)]),
    "schnetpack": ("schnetpack", [("schnet", schnet_of_schnetpack)]),
    "deepmd": ("deepmd-kit", [("deeppot-se", deeppot_of_deepmd)]),
    "nequip": ("nequip", [("nequip", nequip_of_nequip)]),
}


def ours(case: Case) -> Call:
    """The exported module as a simulation runs it."""
    periodic = case.box_nm is not None
    module = torch.jit.freeze(case.potential.module(case.atomic_numbers, periodic=periodic).eval())
    arguments = [torch.as_tensor(case.positions_nm)]
    if periodic:
        arguments.append(torch.as_tensor(case.box_nm))
    return lambda: module(*arguments)


def repeated(call: Call) -> Window:
    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            call()

    return Window(run)


def compare(model: str, theirs: Callable[[Case], Made], system: str, seconds: float) -> dict[str, Any]:
    """One entry: both sides on one system."""
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(model, system, Path(folder))
        try:
            call, name = theirs(case)
        except NotImplementedError as error:
            return {"model": model, "system": system, "n_atoms": len(case.positions_nm), "why": str(error)}
        own = ours(case)
        for energy, forces in (call(), own()):
            assert math.isfinite(float(energy.sum()))
            assert np.isfinite(np.asarray(forces.detach())).all()
        slow = len(case.positions_nm) > 50
        timings = take_turns(
            {"ours": repeated(own), "theirs": repeated(call)},
            seconds=seconds,
            least_rounds=2 if slow else 5,
            warm_up=1 if slow else 3,
        )
    return {
        "model": model,
        "system": system,
        "n_atoms": len(case.positions_nm),
        "theirs": name,
        "timings": {side: timing.as_dict() for side, timing in timings.items()},
        "gain": round(timings["theirs"].process_us_min / timings["ours"].process_us_min, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("--systems", nargs="+", default=["ethanol", "aspirin", "water"])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "peers_speed.json")
    arguments = parser.parse_args()
    os.environ["MLBENCH_PEER"] = arguments.peer
    # Makes schnetpack and deepmd importable.
    sys.path.insert(0, str(ROOT / "tests" / "peers"))
    import conftest  # noqa: F401

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.jit.set_fusion_strategy([])
    package, pairs = PEERS[arguments.peer]
    for model, theirs in pairs:
        for system in arguments.systems:
            if arguments.models and model not in arguments.models:
                continue
            entry = compare(model, theirs, system, arguments.seconds)
            entry.update(
                peer=arguments.peer,
                package=f"{package} {importlib.metadata.version(package)}",
                machine=machine(),
                date=provenance()["date"],
                commit=provenance()["commit"],
            )
            print(model, system, entry.get("theirs", entry.get("why")), entry.get("gain"), flush=True)
            old = read_json(arguments.out)["entries"] if arguments.out.is_file() else []
            key = ("model", "system", "peer")
            kept = [one for one in old if any(one[k] != entry[k] for k in key)]
            entries = sorted([*kept, entry], key=lambda one: (one["model"], one["peer"], one["n_atoms"]))
            write_json(arguments.out, {**provenance(), "command": "make peers-speed", "entries": entries})


if __name__ == "__main__":
    main()
