"""Bond lengths, bond angles and dihedrals of trajectories, whoever made them, against a reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.measuring.measurement import (
    Measured,
    Source,
    curve,
    every_nth,
    frames_to_skip,
    read_measurement,
)
from openmm_mlbench.metrics.aggregate import Estimate, block_estimate, join_notes, result_over_replicas
from openmm_mlbench.metrics.bond_graph import (
    DihedralGroup,
    angle_groups,
    basins_about,
    bond_groups,
    bond_neighbours,
    dihedral_groups,
)
from openmm_mlbench.metrics.floors import Floor, Segments, noise_floor, score_with_jackknife
from openmm_mlbench.metrics.internal_coordinates import (
    ANGLE_BINS,
    BACKBONE,
    BACKBONE_SOURCE,
    BOND_BINS,
    BOND_R_MAX_A,
    DIHEDRAL_BINS,
    CoordinateGroup,
    Distribution,
    DistributionAccumulator,
    angle_edges,
    backbone_basin_of,
    basin_of,
    bond_edges_A,
    distribution_mae,
    mean_of,
    plot_basins,
    plot_distributions,
    sd_of,
)
from openmm_mlbench.results import Curve, Measurement, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blocks of a distribution that its JSON keeps, for noise floors of later measurements.
MAX_BLOCKS = 100
BACKBONE_LABEL = "phi-psi"

Score = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def bonds_of(source: Source) -> tuple[NDArray[np.int64], str]:
    """Bonds (n_bonds, 2) of the topology, or where it has none those of the first frame, and which of the two.

    Raises:
        MetricError: there is none.
    """
    bonds = np.array([[bond[0].index, bond[1].index] for bond in source.topology.topology.bonds])
    if len(bonds):
        return bonds.astype(np.int64), f"bonds of {source.topology.path.name}"
    file = source.files[0]
    start, _ = source.frames(file)
    first = file.read(start, start + 1)
    if not np.isfinite(first.positions_nm).all():
        raise MetricError(f"{file.path}: the first frame holds NaN; bonds are found in it, --start after it")
    box = None if first.box_vectors_nm is None else first.box_vectors_nm[0]
    bonds = source.topology.bonds_by_distance(first.positions_nm[0], box)
    if not len(bonds):
        raise MetricError(
            f"{file.path}: neither {source.topology.path.name} nor the first frame has bonds; give a topology that has"
        )
    return bonds, "bonds of the first frame, by covalent radii: the topology has none"


def _between(bonds: NDArray[np.int64], atoms: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if atoms is None:
        return bonds
    inside = np.isin(bonds, atoms).all(axis=1)
    if not inside.any():
        raise MetricError(f"no bond within the {len(atoms)} selected atoms; select whole molecules")
    return np.asarray(bonds[inside])


# --- References ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Sums of a reference per segment, and how long it is."""

    segments: NDArray[np.float64]
    length_ps: float
    source: str
    thinned: NDArray[np.float64] | None = None

    @property
    def sums(self) -> NDArray[np.float64]:
        return np.asarray(self.segments.sum(axis=0))

    def floor(self, length_ps: float, score: Score) -> Floor | None:
        return noise_floor(self.segments, length_ps, self.length_ps, score, self.thinned)


def _blocks(segments: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [part.sum(axis=0) for part in np.array_split(segments, min(len(segments), MAX_BLOCKS))]


def _as_text(row: NDArray[np.float64]) -> str:
    return " ".join(f"{number:.15g}" for number in row)


def _record(name: str, segments: NDArray[np.float64], length_ps: float, **more: Any) -> dict[str, Any]:
    """What a JSON keeps of sums, as lines of numbers; leading and trailing bins without counts are left out."""
    filled = np.flatnonzero(segments.sum(axis=0))
    first = int(filled[0])
    return {
        "label": name,
        "length_ps": length_ps,
        "n_columns": segments.shape[1],
        "first_column": first,
        "blocks": [_as_text(block[first:]) for block in _blocks(segments)],
        **more,
    }


def _known_from_json(
    path: Path, record: dict[str, Any], key: str, label: str, wanted: dict[str, Any], n_columns: int
) -> _Known:
    """The sums that an earlier measurement kept under this label.

    Raises:
        MetricError: it has none, or of other coordinates or bins, or they are damaged.
    """
    items = {item.get("label"): item for item in record.get(key, []) if isinstance(item, dict)}
    if label not in items:
        raise MetricError(f"{path}: has no {label}; it has {', '.join(map(str, items)) or 'none'}")
    item = items[label]
    for name, value in wanted.items():
        if item.get(name) != value:
            raise MetricError(
                f"{path}: {label} has {name} {item.get(name)}, the measurement {value}; measure the same with the "
                "same options"
            )
    try:
        lines = [[float(word) for word in line.split()] for line in item["blocks"]]
        segments = np.zeros((len(lines), int(item["n_columns"])))
        segments[:, int(item["first_column"]) :] = lines
        known = _Known(segments=segments, length_ps=float(item["length_ps"]), source=str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise MetricError(f"{path}: {label} is damaged ({error!r}); write it again") from error
    if segments.shape[1] != n_columns or not np.isfinite(segments).all() or known.length_ps <= 0:
        raise MetricError(f"{path}: {label} is damaged; write it again")
    return known


# --- Bonds and angles ----------------------------------------------------------------------------


def measure_bonds(
    source: Source,
    *,
    atoms: NDArray[np.int64] | None = None,
    r_max_A: float = BOND_R_MAX_A,
    n_bins: int = BOND_BINS,
    reference: "Source | Path | None" = None,
) -> Measured:
    """Distributions of bond lengths by pair of elements, their means and widths, against a reference.

    Args:
        source: trajectories.
        atoms: bonds between these only; all where None.
        r_max_A: end of the bins, A.
        n_bins: number of bins.
        reference: a trajectory of the same topology, or the JSON of an earlier measurement.
    """
    bonds, origin = bonds_of(source)
    groups = bond_groups(source.topology.atomic_numbers, _between(bonds, atoms))
    return _measure("bonds", "bond", source, groups, bond_edges_A(r_max_A, n_bins), origin, reference)


def measure_angles(
    source: Source,
    *,
    atoms: NDArray[np.int64] | None = None,
    n_bins: int = ANGLE_BINS,
    reference: "Source | Path | None" = None,
) -> Measured:
    """Distributions of bond angles by their elements, H-O-H of water for one, against a reference.

    Args:
        source: trajectories.
        atoms: angles between bonds of these only; all where None.
        n_bins: bins from 0 to 180 degrees.
        reference: a trajectory of the same topology, or the JSON of an earlier measurement.
    """
    bonds, origin = bonds_of(source)
    groups = angle_groups(source.topology.atomic_numbers, _between(bonds, atoms))
    if not groups:
        raise MetricError(
            f"{source.topology.path}: no atom has two bonds, so there is no angle; measure bonds"
        )
    return _measure("angles", "angle", source, groups, angle_edges(n_bins), origin, reference)


def _distributions(
    source: Source, groups: Sequence[CoordinateGroup], edges: NDArray[np.float64], nth: int = 1
) -> list[list[Distribution]]:
    """For each replica one distribution for each group, of every nth frame; segments are those of all frames."""
    replicas = []
    for file in source.files:
        counting = DistributionAccumulator(groups, source.n_frames(file), edges, nth)
        for chunk in every_nth(source.chunks(file), nth):
            counting.add(chunk)
        replicas.append(counting.results())
    return replicas


def _known_distributions(
    source: Source,
    reference: "Source | Path | None",
    observable: str,
    groups: Sequence[CoordinateGroup],
    edges: NDArray[np.float64],
) -> list[_Known | None]:
    if reference is None:
        return [None] * len(groups)
    if isinstance(reference, Path):
        record = read_measurement(reference, observable, "standard")
        return [
            _known_from_json(
                reference, record, "distributions", group.label, _grid(group, edges), len(edges) + 3
            )
            for group in groups
        ]
    (found,) = _distributions(reference, groups, edges)
    nth = frames_to_skip(source, reference)
    thinned = _distributions(reference, groups, edges, nth)[0] if nth > 1 else None
    return [
        _Known(
            segments=one.segments,
            length_ps=one.length_ps,
            source=str(reference.files[0].path),
            thinned=None if thinned is None else thinned[g].segments,
        )
        for g, one in enumerate(found)
    ]


def _grid(group: CoordinateGroup, edges: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "n_coordinates": len(group.atoms),
        "n_bins": len(edges) - 1,
        "low": round(float(edges[0]), 9),
        "high": round(float(edges[-1]), 9),
    }


def _measure(
    observable: str,
    prefix: str,
    source: Source,
    groups: Sequence[CoordinateGroup],
    edges: NDArray[np.float64],
    origin: str,
    reference: "Source | Path | None",
) -> Measured:
    # A reference that does not fit should be told before minutes of counting.
    known = _known_distributions(source, reference, observable, groups, edges)
    replicas = _distributions(source, groups, edges)
    results: list[Result] = []
    curves: dict[str, Curve] = {}
    for g in range(len(groups)):
        of_group = [replica[g] for replica in replicas]
        results += [
            _area_result(prefix, of_group, known[g]),
            *_moment_results(prefix, "mean", mean_of, of_group, known[g]),
            *_moment_results(prefix, "sd", sd_of, of_group, known[g]),
        ]
        curves |= _density_curves(of_group, known[g])
    measurement = Measurement(
        observable=observable,
        mode="standard",
        definition=_definition(prefix, groups[0].unit),
        inputs=_inputs(source, groups, edges, origin, known),
        results=results,
        curves=curves,
    )
    together = [_together([replica[g] for replica in replicas]) for g in range(len(groups))]

    def draw(ax: "Axes") -> None:
        plot_distributions(together, ax, _as_distributions(together, known))

    return Measured(
        measurement=measurement, draw=draw, more={"distributions": _records(groups, edges, together)}
    )


def _definition(prefix: str, unit: str) -> str:
    what = "bonds between two elements" if prefix == "bond" else "angles between bonds, by their elements"
    return (
        f"Density of the values of all {what} over all frames; mean and standard deviation ({unit}) of the same values; "
        f"{prefix}_mae: area between the density and the reference's, 0 when equal, 2 when disjoint; _mean_error and "
        "_sd_error: absolute difference to the reference's."
    )


def _inputs(
    source: Source,
    groups: Sequence[CoordinateGroup],
    edges: NDArray[np.float64],
    origin: str,
    known: Sequence[_Known | None],
) -> dict[str, Any]:
    first = known[0]
    return source.inputs() | {
        "n_coordinates": {group.label: len(group.atoms) for group in groups},
        "bonds": origin,
        "n_bins": len(edges) - 1,
        "range": [round(float(edges[0]), 9), round(float(edges[-1]), 9)],
        "length_ps": sum(source.length_ps(file) for file in source.files),
        "reference": None if first is None else first.source,
    }


def _together(replicas: Sequence[Distribution]) -> Distribution:
    """All replicas as one trajectory."""
    first = replicas[0]
    return Distribution(
        label=first.label,
        unit=first.unit,
        edges=first.edges,
        segments=np.concatenate([one.segments for one in replicas]),
        n_coordinates=first.n_coordinates,
        length_ps=sum(one.length_ps for one in replicas),
    )


def _as_distributions(like: Sequence[Distribution], known: Sequence[_Known | None]) -> list[Distribution]:
    return [
        Distribution(
            label=one.label,
            unit=one.unit,
            edges=one.edges,
            segments=expected.segments,
            n_coordinates=one.n_coordinates,
            length_ps=expected.length_ps,
        )
        for one, expected in zip(like, known, strict=True)
        if expected is not None
    ]


def _records(
    groups: Sequence[CoordinateGroup], edges: NDArray[np.float64], together: Sequence[Distribution]
) -> list[dict[str, Any]]:
    return [
        _record(group.label, one.segments, one.length_ps, unit=group.unit, **_grid(group, edges))
        for group, one in zip(groups, together, strict=True)
    ]


def _compared(
    name: str,
    unit: str,
    replicas: Sequence[Distribution],
    known: _Known | None,
    score: Score,
    note: str = "",
) -> Result:
    """A distance between a distribution and the reference's, with its floor."""
    n_frames = sum(one.n_frames for one in replicas)
    if known is None:
        missing = "no reference was given: --reference"
        return Result(name=name, status="no_reference", unit=unit, n_frames=n_frames, note=missing)
    expected = known.sums
    estimates = [
        score_with_jackknife(one.segments, lambda sums: score(sums, expected), one.n_frames)
        for one in replicas
    ]
    floor = known.floor(float(np.mean([one.length_ps for one in replicas])), score)
    why = "no floor: the reference has no parts to compare" if floor is None else f"floor: {floor.note}"
    return result_over_replicas(
        name,
        unit,
        estimates,
        floor=None if floor is None else floor.value,
        n_frames=n_frames,
        note=join_notes(note, why),
    )


def _area_result(prefix: str, replicas: Sequence[Distribution], known: _Known | None) -> Result:
    outside = sum(float(one.sums[-4]) for one in replicas)
    note = f"{outside:.0f} values outside of the bins" if outside else ""
    return _compared(f"{prefix}_mae_{replicas[0].label}", "1", replicas, known, distribution_mae, note)


def _moment_results(
    prefix: str,
    moment: str,
    value_of: Callable[[NDArray[np.float64]], float],
    replicas: Sequence[Distribution],
    known: _Known | None,
) -> list[Result]:
    label, unit = replicas[0].label, replicas[0].unit
    estimates = [score_with_jackknife(one.segments, value_of, one.n_frames) for one in replicas]
    note = f"{replicas[0].n_coordinates} {prefix}{'s' if replicas[0].n_coordinates > 1 else ''}"
    if known is not None:
        own = score_with_jackknife(known.segments, value_of, 1)
        error = "" if own.stderr is None else f" +- {own.stderr:.2g}"
        note = join_notes(note, f"reference {own.value:.5g}{error} {unit}")
    # One value has no width.
    alone = moment == "sd" and all(one.sums[-3] < 2 for one in replicas)
    value = result_over_replicas(
        f"{prefix}_{moment}_{label}",
        unit,
        [None] if alone else estimates,
        n_frames=sum(one.n_frames for one in replicas),
        note=note,
    )

    def apart(sums: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return abs(value_of(sums) - value_of(other))

    return [value, _compared(f"{prefix}_{moment}_error_{label}", unit, replicas, known, apart)]


def _density_curves(replicas: Sequence[Distribution], known: _Known | None) -> dict[str, Curve]:
    together = _together(replicas)
    unit, label = together.unit, together.label
    curves = {label: curve(together.centres, together.density, unit, f"1/{unit}")}
    if len(replicas) > 1:
        curves |= {
            f"{label} replica {i}": curve(one.centres, one.density, unit, f"1/{unit}")
            for i, one in enumerate(replicas)
        }
    if known is not None:
        (expected,) = _as_distributions([together], [known])
        curves[f"reference {label}"] = curve(expected.centres, expected.density, unit, f"1/{unit}")
    return curves


# --- Dihedrals -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BasinSeries:
    """Share of the dihedrals of one label in each basin.

    Args:
        label: of the dihedral.
        names: of the basins.
        series: (n, n_basins), 0 to 1, means over as many consecutive frames each.
        segments: (n_segments, n_basins + 1): sums of the shares, then the number of frames.
        thinned: the same of every nth frame.
        n_frames: behind it.
        length_ps: of the trajectory.
    """

    label: str
    names: tuple[str, ...]
    series: NDArray[np.float64]
    segments: NDArray[np.float64]
    thinned: NDArray[np.float64]
    n_frames: int
    length_ps: float


# Longer series are kept as means of consecutive frames, which have the same mean and error.
_MAX_SERIES = 200_000


class _BasinCounter:
    """Adds up the shares of one dihedral chunk by chunk."""

    def __init__(self, names: tuple[str, ...], n_frames: int, nth: int) -> None:
        self.names, self.n_frames, self.nth = names, n_frames, nth
        self._per_point = -(-n_frames // _MAX_SERIES)
        self._points = np.zeros((-(-n_frames // self._per_point), len(names) + 1))
        self._owners = Segments(n_frames)
        self._segments, self._thinned = (
            np.zeros((self._owners.n_segments, len(names) + 1)) for _ in range(2)
        )

    def add(self, shares: NDArray[np.float64]) -> None:
        frames = self._owners.done + np.arange(len(shares))
        rows = np.hstack([shares, np.ones((len(shares), 1))])
        owners = self._owners.of_next(len(shares))
        np.add.at(self._points, frames // self._per_point, rows)
        np.add.at(self._segments, owners, rows)
        kept = frames % self.nth == 0
        np.add.at(self._thinned, owners[kept], rows[kept])

    def result(self, label: str, length_ps: float) -> BasinSeries:
        # The last point may be a mean over fewer frames than the others, one of 100,000 or more.
        points = self._points[self._points[:, -1] > 0]
        return BasinSeries(
            label=label,
            names=self.names,
            series=points[:, :-1] / points[:, -1:],
            segments=self._segments,
            thinned=self._thinned,
            n_frames=self.n_frames,
            length_ps=length_ps,
        )


def backbone_dihedrals(topology: Any) -> list[DihedralGroup]:
    """Phi and psi of a topology (of mdtraj) that has one of each, as alanine dipeptide; empty for any other."""
    from mdtraj.geometry import dihedral

    quads = [np.asarray(find(topology)) for find in (dihedral.indices_phi, dihedral.indices_psi)]
    if any(quad.shape != (1, 4) for quad in quads):
        return []
    return [
        DihedralGroup(group=CoordinateGroup(label=label, atoms=quad.astype(np.int64)), basins={})
        for label, quad in zip(("phi", "psi"), quads, strict=True)
    ]


def dihedrals_of(source: Source, atoms: NDArray[np.int64] | None = None) -> tuple[list[DihedralGroup], str]:
    """Phi and psi where there is one of each, and every dihedral about a bond that turns, but for these two bonds.

    Raises:
        MetricError: there is none.
    """
    bonds, origin = bonds_of(source)
    topology = source.topology.topology
    backbone = backbone_dihedrals(topology) if atoms is None else []
    taken = {frozenset(one.group.atoms[0, 1:3].tolist()) for one in backbone}
    names = [atom.name for atom in topology.atoms]
    others = [
        one
        for one in dihedral_groups(source.topology.atomic_numbers, _between(bonds, atoms), names)
        if frozenset(one.group.atoms[0, 1:3].tolist()) not in taken
    ]
    if not backbone and not others:
        raise MetricError(
            f"{source.topology.path}: no bond that turns (rings and methyl groups do not count); give atoms: "
            "--dihedral 0,1,2,3"
        )
    return [*backbone, *others], origin


def dihedrals_as_given(
    source: Source,
    named: Sequence[tuple[str, Sequence[int]]],
    basins: dict[str, tuple[float, float]] | None = None,
) -> list[DihedralGroup]:
    """Dihedrals of given atoms, "phi" and "psi" among them for the states of a backbone.

    Args:
        source: trajectories, for elements and bonds.
        named: name and four indices each; without a name they are called by their indices.
        basins: of each but phi and psi; those of its middle bond where None.

    Raises:
        MetricError: an atom that does not exist.
    """
    n_atoms = source.topology.n_atoms
    for name, quad in named:
        if max(quad) >= n_atoms or min(quad) < 0:
            raise MetricError(
                f"dihedral {name or ''} of atoms {','.join(map(str, quad))}; wanted 0-based indices below {n_atoms}"
            )
    labels = [name or "-".join(map(str, quad)) for name, quad in named]
    backbone = {"phi", "psi"} <= set(labels)
    neighbours: list[list[int]] = []
    if basins is None and not (backbone and len(named) == 2):
        neighbours = bond_neighbours(n_atoms, bonds_of(source)[0])
    found = []
    for label, (_, quad) in zip(labels, named, strict=True):
        group = CoordinateGroup(label=label, atoms=np.array([quad], dtype=np.int64))
        cuts: dict[str, tuple[float, float]] = {}
        if not (backbone and label in ("phi", "psi")):
            cuts = basins or basins_about(quad[1], quad[2], source.topology.atomic_numbers, neighbours)
        found.append(DihedralGroup(group=group, basins=cuts))
    return found


def measure_dihedrals(
    source: Source,
    dihedrals: Sequence[DihedralGroup],
    *,
    n_bins: int = DIHEDRAL_BINS,
    origin: str = "atoms as given",
    reference: "Source | Path | None" = None,
) -> Measured:
    """Distributions of dihedrals and the share of time in each basin, against a reference.

    Where dihedrals called phi and psi are among them, the states of a peptide's backbone are the basins of the two.

    Args:
        source: trajectories.
        dihedrals: which, with their basins.
        n_bins: bins over the circle.
        origin: where the dihedrals come from, for the JSON.
        reference: a trajectory of the same topology, or the JSON of an earlier measurement.
    """
    labels = [one.group.label for one in dihedrals]
    if len(set(labels)) != len(labels):
        raise MetricError(f"dihedrals {', '.join(labels)}; give each a name of its own, phi=4,6,8,14")
    groups, edges = [one.group for one in dihedrals], angle_edges(n_bins, dihedral=True)
    known = _known_distributions(source, reference, "dihedrals", groups, edges)
    known_basins = _known_basins(reference, dihedrals) if isinstance(reference, Path) else {}
    replicas, basins = _dihedral_replicas(source, dihedrals, edges)
    if isinstance(reference, Source):
        nth = frames_to_skip(source, reference)
        (series,) = _dihedral_replicas(reference, dihedrals, edges, nth)[1]
        known_basins = {
            one.label: _Known(
                segments=one.segments,
                length_ps=one.length_ps,
                source=str(reference.files[0].path),
                thinned=one.thinned if nth > 1 else None,
            )
            for one in series
        }
    results: list[Result] = []
    curves: dict[str, Curve] = {}
    for g in range(len(groups)):
        of_group = [replica[g] for replica in replicas]
        results.append(_area_result("dihedral", of_group, known[g]))
        curves |= _density_curves(of_group, known[g])
    for b in range(len(basins[0])):
        of_label = [replica[b] for replica in basins]
        results += _basin_results(of_label, known_basins.get(of_label[0].label))
    measurement = Measurement(
        observable="dihedrals",
        mode="standard",
        definition=_dihedral_definition(dihedrals, basins[0]),
        inputs=_inputs(source, groups, edges, origin, known)
        | {"dihedrals": {one.label: one.atoms.tolist() for one in groups}},
        results=results,
        curves=curves,
    )
    together = [_together([replica[g] for replica in replicas]) for g in range(len(groups))]

    def draw(ax: "Axes") -> None:
        plot_dihedrals(results, ax, known_basins)

    return Measured(
        measurement=measurement,
        draw=draw,
        more={
            "distributions": _records(groups, edges, together),
            "basins": [_basin_record([replica[b] for replica in basins]) for b in range(len(basins[0]))],
        },
    )


def _dihedral_replicas(
    source: Source, dihedrals: Sequence[DihedralGroup], edges: NDArray[np.float64], nth: int = 1
) -> tuple[list[list[Distribution]], list[list[BasinSeries]]]:
    groups = [one.group for one in dihedrals]
    replicas, basins = [], []
    for file in source.files:
        n_frames = source.n_frames(file)
        counting = DistributionAccumulator(groups, n_frames, edges)
        counters: dict[str, _BasinCounter] = {}
        for chunk in source.chunks(file):
            for label, (names, shares) in _chunk_basins(dihedrals, counting.add(chunk)).items():
                counters.setdefault(label, _BasinCounter(names, n_frames, nth)).add(shares)
        replicas.append(counting.results())
        length_ps = source.length_ps(file)
        basins.append([counter.result(label, length_ps) for label, counter in counters.items()])
    return replicas, basins


def _chunk_basins(
    dihedrals: Sequence[DihedralGroup], values: Sequence[NDArray[np.float64]]
) -> dict[str, tuple[tuple[str, ...], NDArray[np.float64]]]:
    """Label -> names of the basins, and the share of the dihedrals in each (n_frames, n_basins)."""
    labels = [one.group.label for one in dihedrals]
    shares = {
        one.group.label: (tuple(one.basins), _shares(basin_of(degrees, one.basins), len(one.basins)))
        for one, degrees in zip(dihedrals, values, strict=True)
        if one.basins
    }
    if {"phi", "psi"} <= set(labels):
        phi, psi = (values[labels.index(name)] for name in ("phi", "psi"))
        if phi.shape == psi.shape:
            shares[BACKBONE_LABEL] = (BACKBONE, _shares(backbone_basin_of(phi, psi), len(BACKBONE)))
    return shares


def _shares(number: NDArray[np.int64], n_basins: int) -> NDArray[np.float64]:
    return np.stack([(number == k).mean(axis=1) for k in range(n_basins)], axis=1)


def _dihedral_definition(dihedrals: Sequence[DihedralGroup], basins: Sequence[BasinSeries]) -> str:
    cuts = [
        f"{one.group.label}: "
        + ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in one.basins.items())
        for one in dihedrals
        if one.basins
    ]
    if any(one.label == BACKBONE_LABEL for one in basins):
        cuts.append(BACKBONE_SOURCE)
    return (
        "Density of each dihedral (IUPAC's sign) over all frames; dihedral_mae: area between it and the reference's, 0 "
        "when equal, 2 when disjoint; basin_: share of time in each basin; basin_mae: mean over the basins of the "
        f"absolute difference to the reference's share. Basins in degrees: {'; '.join(cuts) or 'none'}."
    )


def _basin_mae(sums: NDArray[np.float64], reference_sums: NDArray[np.float64]) -> float:
    return float(np.abs(sums[:-1] / sums[-1] - reference_sums[:-1] / reference_sums[-1]).mean())


def _basin_results(replicas: Sequence[BasinSeries], known: _Known | None) -> list[Result]:
    label, n_frames = replicas[0].label, sum(one.n_frames for one in replicas)
    results = []
    if known is None:
        missing = "no reference was given: --reference"
        results.append(
            Result(
                name=f"basin_mae_{label}", status="no_reference", unit="1", n_frames=n_frames, note=missing
            )
        )
    else:
        expected = known.sums
        estimates = [
            score_with_jackknife(one.segments, lambda sums: _basin_mae(sums, expected), one.n_frames)
            for one in replicas
        ]
        floor = known.floor(float(np.mean([one.length_ps for one in replicas])), _basin_mae)
        why = "no floor: the reference has no parts to compare" if floor is None else f"floor: {floor.note}"
        results.append(
            result_over_replicas(
                f"basin_mae_{label}",
                "1",
                estimates,
                floor=None if floor is None else floor.value,
                n_frames=n_frames,
                note=why,
            )
        )
    for b, name in enumerate(replicas[0].names):
        estimates = [_share_estimate(one.series[:, b]) for one in replicas]
        note = "" if known is None else f"reference {known.sums[b] / known.sums[-1]:.3g}"
        results.append(
            result_over_replicas(f"basin_{label}_{name}", "1", estimates, n_frames=n_frames, note=note)
        )
    return results


def _share_estimate(series: NDArray[np.float64]) -> Estimate:
    estimate = block_estimate(series)
    if np.ptp(series) == 0 and estimate.value in (0.0, 1.0):
        note = f"never {'entered' if estimate.value == 0 else 'left'}: no standard error"
        return Estimate(value=estimate.value, stderr=None, n=estimate.n, note=note)
    return estimate


def _basin_record(replicas: Sequence[BasinSeries]) -> dict[str, Any]:
    segments = np.concatenate([one.segments for one in replicas])
    length_ps = sum(one.length_ps for one in replicas)
    return _record(replicas[0].label, segments, length_ps, names=list(replicas[0].names))


def _known_basins(path: Path, dihedrals: Sequence[DihedralGroup]) -> dict[str, _Known]:
    record = read_measurement(path, "dihedrals", "standard")
    wanted = {one.group.label: list(one.basins) for one in dihedrals if one.basins}
    if {"phi", "psi"} <= {one.group.label for one in dihedrals}:
        wanted[BACKBONE_LABEL] = list(BACKBONE)
    return {
        label: _known_from_json(path, record, "basins", label, {"names": names}, len(names) + 1)
        for label, names in wanted.items()
    }


def plot_dihedrals(
    results: Sequence[Result], ax: "Axes", known_basins: dict[str, _Known] | None = None
) -> "Axes":
    """Share of time in each basin of a measurement's results, as bars."""
    shares = {
        result.name.removeprefix("basin_"): result
        for result in results
        if result.name.startswith("basin_") and not result.name.startswith("basin_mae_")
    }
    references: dict[str, float] = {}
    for label, known in (known_basins or {}).items():
        names = [name for name in shares if name.startswith(f"{label}_")]
        references |= {name: float(known.sums[k] / known.sums[-1]) for k, name in enumerate(names)}
    return plot_basins(
        {name: float(result.value or 0.0) for name, result in shares.items()},
        ax,
        stderrs={name: result.stderr for name, result in shares.items()},
        references=references,
    )
