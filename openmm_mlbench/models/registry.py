"""The architectures by name, and networks from plain configurations."""

import inspect
from typing import Any

from openmm_mlbench.errors import ModelError
from openmm_mlbench.models.deeppot_se import DeepPotSE
from openmm_mlbench.models.dimenet import DimeNet
from openmm_mlbench.models.forcenet import ForceNet
from openmm_mlbench.models.gemnet import GemNetDT, GemNetT
from openmm_mlbench.models.nequip import NequIP
from openmm_mlbench.models.network import Network
from openmm_mlbench.models.schnet import SchNet

ARCHITECTURES: dict[str, type[Network]] = {
    "schnet": SchNet,
    "deeppot-se": DeepPotSE,
    "dimenet": DimeNet,
    "forcenet": ForceNet,
    "gemnet-t": GemNetT,
    "gemnet-dt": GemNetDT,
    "nequip": NequIP,
}


def build_network(name: str, hyperparameters: dict[str, Any], species: list[int]) -> Network:
    """A network with fresh weights.

    Args:
        name: architecture, for example ``schnet``.
        hyperparameters: keyword arguments of its class; missing ones take the paper's MD17 value.
        species: sorted atomic numbers that the model shall know.

    Raises:
        ModelError: unknown architecture or hyperparameter, or an element beyond those it has weights for.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"model {name!r} is not known; use one of {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    if species and max(species) > architecture.heaviest:
        raise ModelError(
            f"{name} has weights for atomic numbers up to {architecture.heaviest}, got {max(species)}; use another model"
        )
    arguments = dict(hyperparameters)
    # Some architectures have parameters for each element or pair of elements.
    if "species" in inspect.signature(architecture).parameters:
        arguments["species"] = species
    try:
        return architecture(**arguments)
    except TypeError as error:
        raise ModelError(f"hyperparameters of {name}: {error}; see its docstring for the names") from error


def count_parameters(network: Network) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
