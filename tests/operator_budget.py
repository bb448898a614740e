"""Executed operations of one force call of every network, and the budget that was recorded for them.

python tests/operator_budget.py            compare with the budget
python tests/operator_budget.py --record   write it anew, and say what changed

Below about 100 atoms on a processor, and always on a GPU, a call costs what its operations cost to start,
whatever their size: a count says more than a clock, and says it on any machine.  Networks are small but
have every kind of layer; the count grows with depth, not with width or atoms, but for DimeNet and GemNet-T in a
box on a processor, where groups of atoms take turns.
"""

import argparse
import json
from pathlib import Path

import fresh_models
import numpy as np
import torch

from openmm_mlbench.export.ahead_of_time import specialise_periodic
from openmm_mlbench.export.archive import save_archive
from openmm_mlbench.export.block_diagonal import trace_copies
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.potential import Potential
from openmm_mlbench.speed.operators import count_operators

FILE = Path(__file__).with_name("operator_budget.json")
# What runs by default for a molecule, and in a box on a processor; and what a GPU captures of both.
FORMS = ("molecule", "molecule, captured", "copies, captured", "box", "box, fixed shapes")
N_COPIES = 2
# A triclinic cell of 9 atoms that is smaller than twice every cutoff, nm.
BOX_NM = np.array([[0.76, 0.0, 0.0], [0.21, 0.71, 0.0], [-0.17, 0.2, 0.7]])


def network_calls(model, folder):
    """A call of each form, as OpenMM makes it."""
    field = fresh_models.force_field(model, fresh_models.TINY[model])
    path = Path(folder) / f"{model}.pt"
    save_archive(field, fresh_models.card(model, field, fresh_models.TINY[model]), path)
    potential = Potential.load(path)
    numbers = field.atomic_numbers.tolist()
    positions = torch.as_tensor(fresh_models.ethanol_positions_nm()).requires_grad_()
    box = torch.as_tensor(BOX_NM)
    eager = ExportedModel(field).eval()
    modules = {
        "molecule": (potential.module(numbers), (positions,)),
        "molecule, captured": (potential.module(numbers, evaluation="ahead-of-time"), (positions,)),
        "copies, captured": (
            trace_copies(eager, positions.detach(), N_COPIES, torch.ones(len(numbers))),
            (positions.detach().repeat(N_COPIES, 1),),
        ),
        "box": (potential.module(numbers, periodic=True), (positions, box)),
        "box, fixed shapes": (specialise_periodic(eager, positions.detach(), box), (positions, box)),
    }
    calls = {}
    for form, (module, arguments) in modules.items():
        frozen = torch.jit.freeze(module.eval())
        calls[form] = lambda frozen=frozen, arguments=arguments: frozen(*arguments)
    return calls


def executed(model, folder):
    """Operations by name of one call of each form."""
    return {form: count_operators(call) for form, call in network_calls(model, folder).items()}


def budget():
    """Operations per call of each network and form."""
    return json.loads(FILE.read_text(encoding="utf-8"))["operators"]


def changes(old, new):
    """Lines for a reader: what grew and what shrank."""
    return [
        f"{model}, {form}: {old.get(model, {}).get(form, 'nothing')} -> {count}"
        for model, forms in new.items()
        for form, count in forms.items()
        if old.get(model, {}).get(form) != count
    ]


def main():
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        new = {
            model: {form: sum(counts.values()) for form, counts in executed(model, folder).items()}
            for model in ARCHITECTURES
        }
    old = budget() if FILE.is_file() else {}
    print("\n".join(changes(old, new)) or "nothing changed")
    if arguments.record:
        FILE.write_text(
            json.dumps({"torch": torch.__version__, "operators": new}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
