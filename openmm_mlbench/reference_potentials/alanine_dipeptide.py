"""Alanine dipeptide with AMBER ff03: in implicit OBC water, and in explicit TIP3P water.

ff03: Duan et al., J. Comput. Chem. 24, 1999 (2003).  OBC: Onufriev, Bashford, Case, Proteins
55, 383 (2004), model II.  TIP3P: Jorgensen et al., J. Chem. Phys. 79, 926 (1983).  All
parameters as OpenMM ships them.
"""

from dataclasses import dataclass
from typing import Any

from openmm_mlbench.errors import PotentialError
from openmm_mlbench.units import NM_PER_ANGSTROM

EXPLICIT_CUTOFF_A = 9.0


def make(name: str) -> "Amber03":
    """The potential of this id."""
    return _POTENTIALS[name]


@dataclass(frozen=True, kw_only=True)
class Amber03:
    """AMBER ff03; attributes as of ReferencePotential.

    Args:
        files: force-field files of OpenMM.
        periodic: whether it is made for a cell of explicit water.
    """

    id: str
    dataset: str | None
    summary: str
    level_of_theory: str
    files: tuple[str, ...]
    periodic: bool
    system: str = "alanine-dipeptide"

    @property
    def source(self) -> str:
        """Where the parameters come from."""
        return f"Duan et al., J. Comput. Chem. 24, 1999 (2003); OpenMM's {' and '.join(self.files)}"

    @property
    def description(self) -> dict[str, Any]:
        """For run records."""
        return {
            "model": self.id,
            "archive_sha256": None,
            "dataset": self.dataset,
            "card": None,
            "level_of_theory": self.level_of_theory,
            "source": self.source,
            "parameters": {
                "files": list(self.files),
                "cutoff_A": EXPLICIT_CUTOFF_A if self.periodic else None,
            },
        }

    def create_system(self, topology: Any, *, constraints: Any = None) -> Any:
        """A System; bonds to hydrogen are rigid with ``constraints=HBonds``, explicit water always is.

        Raises:
            PotentialError: the force field does not know a residue, or the cell does not fit.
        """
        from openmm import app

        box = topology.getPeriodicBoxVectors()
        if (box is not None) != self.periodic:
            found, wanted = ("a", "none") if box is not None else ("no", "one with explicit water")
            raise PotentialError(f"{self.id}: the topology has {found} cell; wanted {wanted}")
        options: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
        if self.periodic:
            options = {"nonbondedMethod": app.PME, "nonbondedCutoff": EXPLICIT_CUTOFF_A * NM_PER_ANGSTROM}
        try:
            return app.ForceField(*self.files).createSystem(
                topology, constraints=constraints, rigidWater=True, removeCMMotion=False, **options
            )
        except ValueError as error:
            raise PotentialError(f"{self.id}: {error}") from error


_POTENTIALS = {
    "amber03-obc": Amber03(
        id="amber03-obc",
        dataset="alanine-dipeptide-obc",
        summary="AMBER ff03 with OBC implicit water",
        level_of_theory="AMBER ff03, implicit water (OBC II)",
        files=("amber03.xml", "amber03_obc.xml"),
        periodic=False,
    ),
    "amber03-tip3p": Amber03(
        id="amber03-tip3p",
        dataset="alanine-dipeptide-explicit",
        summary="AMBER ff03 in explicit TIP3P water",
        level_of_theory="AMBER ff03 in TIP3P water, PME",
        files=("amber03.xml", "tip3p.xml"),
        periodic=True,
    ),
}
