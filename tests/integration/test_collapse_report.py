"""From a collapse to its picture: dossier, metrics.json, page."""

import json
import re

import harmonic_ethanol as ethanol
import numpy as np
import pytest
from matplotlib.figure import Figure

from openmm_mlbench.analysis import analyze
from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.collapse import plot_dossier, read_collapse
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.report.page import build_report
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.units import KJMOL_NM_PER_EV_ANGSTROM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("collapse") / "run"
    protocol = load_protocol("ethanol-langevin")
    run_protocol(
        protocol,
        ethanol.BreakingEthanol(),
        out,
        start_frames=ethanol.frames(),
        replicas=2,
        length_ps=20.0,
    )
    return out


def test_the_dossier_is_read_and_drawn(run):
    folder = run / "replica-0"
    collapse = read_collapse(folder)
    dossier = json.loads((folder / "dossier" / "dossier.json").read_text())
    assert collapse.reason == "bond-deviation"
    assert collapse.first_step == dossier["full_rate"]["first_offending_step"]
    assert len(collapse.steps) == 50
    assert collapse.time_per_step_ps == pytest.approx(0.0005)
    assert collapse.frame_forces_meV_A == pytest.approx(
        1000 * np.array(dossier["max_force_kJ_mol_nm"]) / KJMOL_NM_PER_EV_ANGSTROM
    )
    # Frames and steps are of one run: where both have a step they agree.
    for step, force in zip(collapse.frame_steps, collapse.frame_forces_meV_A, strict=True):
        if step in collapse.steps:
            assert collapse.forces_meV_A[collapse.steps == step][0] == pytest.approx(force)
    ax = plot_dossier(folder)
    assert "meV/A" in ax.get_ylabel()
    assert len(ax.lines) == 3
    given = Figure().subplots()
    assert plot_dossier(folder / "dossier", given) is given


def test_no_dossier(run, tmp_path):
    assert read_collapse(tmp_path) is None
    with pytest.raises(MetricError, match=r"holds no dossier\.json; give the folder of a replica"):
        plot_dossier(tmp_path)
    (tmp_path / "dossier.json").write_text('{"step": 3}')
    with pytest.raises(MetricError, match="not the dossier of a collapse"):
        read_collapse(tmp_path)


def test_the_page_shows_how_it_collapsed(run):
    metrics = analyze(run)
    found = [member["collapse"] for member in metrics["run"]["replicas"]]
    assert [collapse["reason"] for collapse in found] == ["bond-deviation"] * 2
    page = build_report([run], run / "report.html").read_text()
    assert "How breaking-ethanol collapsed" in page
    assert re.search(r"largest force", page)
