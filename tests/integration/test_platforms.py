"""The choice of platform, precision, threads and driver: what is chosen, what it says, what is refused."""

import json
import subprocess
import sys

import fresh_models
import harmonic_ethanol
import openmm
import pytest
import torch
from openmm import app

from openmm_mlbench import workflow
from openmm_mlbench.assets import asset_path
from openmm_mlbench.cli import main
from openmm_mlbench.data.datasets import CACHE_VARIABLE
from openmm_mlbench.errors import PotentialError, SimulationError
from openmm_mlbench.forces import drivers, platforms
from openmm_mlbench.potential import Potential
from openmm_mlbench.simulation import platforms as choosing
from openmm_mlbench.simulation.platforms import choose_platform, context_properties


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


@pytest.fixture
def ethanol():
    return app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology


@pytest.fixture
def learned(archive, ethanol):
    return Potential.load(archive).create_system(ethanol)


def classical(n_atoms):
    system = openmm.System()
    force = openmm.CustomExternalForce("x^2 + y^2 + z^2")
    for _ in range(n_atoms):
        force.addParticle(system.addParticle(1.0))
    system.addForce(force)
    return system


class Capturable(torch.nn.Module):
    """Says of itself that its shapes are fixed, or that they are not."""

    capturable: torch.jit.Final[bool]

    def __init__(self, capturable: bool) -> None:
        super().__init__()
        self.capturable = capturable

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (positions * positions).sum(), -2.0 * positions


class Broken(torch.nn.Module):
    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("set_stride is not allowed on a Tensor created from .data or .detach()")


# ---- what is chosen on a machine without a GPU ----


def test_reference_where_a_network_does_all_the_work(learned):
    choice = choose_platform("auto", learned)
    assert (choice.name, choice.threads, choice.precision) == ("Reference", 1, "double")
    assert (choice.driver, choice.cuda_graphs, choice.properties) == ("torchforce", False, {})
    assert choice.line == (
        "platform Reference (double precision, 1 thread, driver torchforce): no CUDA device, and where a network does "
        "all the work Reference has the least overhead; 9 atoms are too few for more threads"
    )


def test_cpu_where_classical_forces_act_on_many_atoms(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = choosing._cores()
    assert choose_platform("auto", classical(99)).name == "Reference"
    choice = choose_platform("auto", classical(100))
    assert (choice.name, choice.driver, choice.precision) == ("CPU", None, "single")
    assert choice.threads == cores
    assert choice.properties == {"Threads": str(cores), "DeterministicForces": "true"}
    # Runs at the same time share the cores, but each has one.
    assert choose_platform("auto", classical(100), jobs=cores).threads == 1
    assert choose_platform("auto", classical(100), jobs=10 * cores).threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert choose_platform("auto", classical(100)).threads == 7


def test_a_learned_ligand_in_many_classical_atoms_runs_on_cpu(archive, ethanol):
    system = classical(120)
    force = Potential.load(archive).create_force(ethanol)
    system.addForce(force)
    choice = choose_platform("auto", system)
    assert (choice.name, choice.driver) == ("CPU", "torchforce")


def test_what_is_asked_for_is_taken(learned):
    choice = choose_platform("CPU", learned, threads=3, precision="single")
    assert choice.properties == {"Threads": "3", "DeterministicForces": "true"}
    assert choice.line == "platform CPU (single precision, 3 threads, driver torchforce): as asked for"


# ---- with a GPU, of which only the answers are played here ----


@pytest.fixture
def torchforce_libraries(monkeypatch):
    """A machine with a CUDA device, and the platforms that openmmtorch has a library for."""
    libraries = ["Reference", "CPU", "CUDA"]
    monkeypatch.setattr(choosing, "_available", lambda: ["Reference", "CPU", "HIP", "CUDA"])
    monkeypatch.setattr(choosing, "_answers", lambda name: name == "CUDA")
    monkeypatch.setattr(choosing, "_runs_torchforce", lambda name: name in libraries)
    return libraries


def one_atom(driver, capturable=True):
    module = torch.jit.script(Capturable(capturable))
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(drivers.make_force(module, periodic=False, driver=driver))
    return system


@pytest.mark.parametrize("capturable", [False, True])
def test_cuda_and_its_graphs(torchforce_libraries, capturable):
    system = one_atom("torchforce", capturable)
    choice = choose_platform("auto", system)
    assert (choice.name, choice.cuda_graphs) == ("CUDA", capturable)
    assert choice.properties == {"Precision": "mixed"}
    graphs = "on" if capturable else "off"
    assert choice.line == (
        f"platform CUDA (mixed precision, 1 thread, driver torchforce, CUDA graphs {graphs}): "
        "a CUDA device answers; the GPU does the work of threads"
    )
    assert choose_platform("CUDA", system, precision="double").properties == {"Precision": "double"}
    # Nothing is replayed on a processor, whatever the module says.
    assert not choose_platform("Reference", system).cuda_graphs


def test_cuda_without_its_torchforce_library(torchforce_libraries):
    torchforce_libraries.remove("CUDA")
    choice = choose_platform("auto", one_atom("torchforce"))
    assert choice.name == "Reference"
    assert "openmmtorch's library for it does not load (--driver pythonforce runs there)" in choice.reason
    with pytest.raises(SimulationError, match="no library for platform 'CUDA' that loads here; use --driver"):
        choose_platform("CUDA", one_atom("torchforce"))
    choice = choose_platform("auto", one_atom("pythonforce"))
    assert (choice.name, choice.driver, choice.cuda_graphs) == ("CUDA", "pythonforce", False)


def test_a_platform_without_a_device(torchforce_libraries):
    with pytest.raises(
        SimulationError, match="platform 'HIP' is here, but no device answers to it; use auto"
    ):
        choose_platform("HIP", one_atom("pythonforce"))


# ---- what is refused, before anything is written ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--platform", "TPU"), "platform 'TPU' is not here; use auto or one of Reference, CPU"),
        (
            ("--platform", "Reference", "--precision", "mixed"),
            "platform Reference has double precision only, 'mixed' was asked for; use auto",
        ),
        (("--platform", "CPU", "--precision", "double"), "platform CPU has single precision only"),
        (("--threads", "0"), "threads is 0; at least 1 is needed"),
        (("--driver", "torch"), "driver 'torch' is not known; use one of auto, torchforce, pythonforce"),
    ],
)
def test_combinations_that_cannot_be(archive, capsys, tmp_path, options, words):
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "ethanol", "--model", str(archive), "-o", str(run), *options])
    assert stop.value.code == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line][-1].startswith(f"error: {words}")
    assert not run.exists()


def test_a_driver_for_a_potential_without_a_network():
    with pytest.raises(PotentialError, match=r"spcfw has no network, .*driver 'pythonforce'.*leave it out"):
        workflow.find_model("spcfw", "pythonforce")


# ---- what a run says and writes down ----


def test_a_run_says_and_records_what_was_chosen(capsys, tmp_path, monkeypatch):
    # Uncompiled, which is all the same here and takes no minute.
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = tmp_path / "run"
    arguments = ["simulate", "ethanol", "--model", "ethanol/schnet", "-o", str(run), "--replicas", "1"]
    with pytest.raises(SystemExit):
        main([*arguments, "--length", "0.1", "--driver", "pythonforce", "--platform", "Reference"])
    words = capsys.readouterr().err
    assert "platform Reference (double precision, 1 thread, driver pythonforce): 9 atoms are too few" in words
    record = json.loads((run / "run.json").read_text())
    assert record["platform"] == record["sessions"][0]["platform"]
    assert record["platform"]["driver"] == "pythonforce"
    assert record["platform"]["reason"] == (
        "9 atoms are too few for more threads; not compiled, and slower: there is no C++ compiler (no-such-compiler)"
    )
    assert json.loads((run / "replica-0" / "status.json").read_text())["platform"] == {
        "name": "Reference", "Driver": "pythonforce",
    }  # fmt: skip
    # The other driver's forces differ in the last bits: what goes on with them says so.
    with pytest.raises(SystemExit):
        main([*arguments, "--length", "0.2", "--resume", "--driver", "torchforce"])
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [session["platform"]["driver"] for session in sessions] == ["pythonforce", "torchforce"]
    assert json.loads((run / "replica-0" / "status.json").read_text())["resume"] == "inexact"


def test_a_context_without_a_network_names_no_driver():
    system = harmonic_ethanol.HarmonicEthanol().create_system(harmonic_ethanol.topology())
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    assert context_properties(context) == {}


# ---- drivers ----


def test_torchforce_is_really_evaluated():
    assert platforms.torchforce_works() is None
    assert platforms.try_torchforce(torch.jit.script(Capturable(False))) is None
    fault = platforms.try_torchforce(torch.jit.script(Broken()))
    assert fault.startswith("it loads but fails when it is evaluated: ")
    assert "set_stride is not allowed" in fault
    assert "\n" not in fault


def test_auto_falls_back_and_says_why(archive, monkeypatch, ethanol):
    fault = "it loads but fails when it is evaluated: set_stride"
    monkeypatch.setattr(drivers, "torchforce_works", lambda: fault)
    assert drivers.choose_driver("auto") == ("pythonforce", f"TorchForce does not work: {fault}")
    with pytest.raises(PotentialError, match=r"TorchForce does not work: .*use driver pythonforce"):
        drivers.choose_driver("torchforce")
    potential = Potential.load(archive)
    system = potential.create_system(ethanol, evaluation="autograd")
    assert choose_platform("auto", system, engine=potential.engine).reason.endswith(fault)


def test_without_openmmtorch():
    code = """
    import sys
    sys.modules["openmmtorch"] = None
    from openmm_mlbench.forces.drivers import choose_driver
    print(*choose_driver("auto"), sep=": ")
    """
    lines = [line.strip() for line in code.splitlines()]
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert found.stdout.startswith("pythonforce: TorchForce does not work: openmmtorch does not import: ")


def test_the_driver_of_a_potential(archive, ethanol):
    asked = Potential.load(archive, "pythonforce")
    system = asked.create_system(ethanol, evaluation="autograd")
    assert [drivers.driver_of(force) for force in system.getForces()] == ["pythonforce", None]
    assert asked.engine == drivers.Engine(driver="pythonforce", reason="asked for")
    # What a call asks for goes before.
    system = asked.create_system(ethanol, driver="torchforce")
    assert drivers.driver_of(system.getForce(0)) == "torchforce"
    assert asked.engine.driver == "torchforce"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_of_a_step_is_kept_for_the_next():
    """Large tensors that come and go fault no pages in again, as they do by default."""
    program = """
import resource, sys, torch
from openmm_mlbench.memory import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        parts = [torch.full((4_000_000,), 1.0) for _ in range(3)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
by_default = faults()
if not keep_memory():
    sys.exit(77)
faults()
assert faults() < 100 < 10_000 < by_default
"""
    code = subprocess.run([sys.executable, "-c", program], check=False).returncode
    if code == 77:
        pytest.skip("this C library has no mallopt")
    assert code == 0
