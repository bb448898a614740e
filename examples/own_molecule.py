"""Your own molecule: from a PDB file to a report.

    python examples/own_molecule.py --structure my.pdb --model my.pt

Without arguments: methanol, with a model that has seen ethanol only.  It knows the elements; whether it knows the molecule, its
simulation tells.
"""

import argparse
from pathlib import Path

from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.protocol_template import new_protocol
from openmm_mlbench.report.page import build_report
from openmm_mlbench.workflow import measure, simulate

METHANOL = """\
HETATM    1  C   MOH A   1      -0.047   0.664   0.000  1.00  0.00           C
HETATM    2  O   MOH A   1      -0.047  -0.758   0.000  1.00  0.00           O
HETATM    3  H1  MOH A   1      -1.093   0.970   0.000  1.00  0.00           H
HETATM    4  HO  MOH A   1       0.878  -1.046   0.000  1.00  0.00           H
HETATM    5  H2  MOH A   1       0.438   1.071   0.891  1.00  0.00           H
HETATM    6  H3  MOH A   1       0.438   1.071  -0.891  1.00  0.00           H
END
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structure", type=Path, help="PDB file; methanol if not given")
    parser.add_argument("--model", default="ethanol-gfn2/schnet")
    parser.add_argument("--like", default="ethanol-langevin", help="protocol to follow")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--length", type=float, default=5.0, help="of each run, ps")
    parser.add_argument("--out", type=Path, default=Path("own-molecule"), help="goes on with what is there")
    arguments = parser.parse_args()

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    structure = arguments.structure
    if structure is None:
        structure = out / "methanol.pdb"
        structure.write_text(METHANOL)
    if not (out / "protocol.xml").exists():
        made = new_protocol(
            structure,
            out / "protocol.xml",
            like=arguments.like,
            temperature_K=arguments.temperature,
            length_ps=arguments.length,
            replicas=2,
        )
        print(*made.notes, sep="\n")
    # A protocol that was written is there to be changed.
    protocol = load_protocol(out / "protocol.xml")
    run = out / "run"
    statuses = simulate(protocol, Potential.load(arguments.model), run, resume=run.exists(), note=print)
    for status in statuses:
        print(f"run {status.replica}: {status.state} after {status.time_ps:g} ps {status.reason or ''}")
    measure(run)
    print(build_report([run], out / "report.html"))


if __name__ == "__main__":
    main()
