"""States of replicas that share a Context: one State XML for all, one for each, and back.

OpenMM writes numbers with all their digits, so nothing is lost on the way.
"""

import copy
from typing import Any

import numpy as np
from lxml import etree
from numpy.typing import NDArray

_ATOM = {"Positions": "Position", "Velocities": "Velocity"}
# A thermostat owns two chains, the second of which (of pairs) is empty here.
_CHAINS_PER_THERMOSTAT = 2


def parse(text: str) -> Any:
    """Root of a State XML, without fetching anything that it may name.

    Raises:
        ValueError: another class, which OpenMM's deserializer must not see: some of them run code.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True, remove_blank_text=True
    )
    root = etree.fromstring(text.encode(), parser)
    if root.tag != "State" or root.get("type") != "State":
        raise ValueError(f"a {root.get('type')} where a State was wanted")
    return root


def split_state(text: str, n_atoms: int, live: list[int]) -> dict[int, str]:
    """The State of each live copy as that of a System of its own.

    Args:
        text: State XML of all copies.
        n_atoms: of one copy.
        live: places of the copies that have a thermostat, in order.
    """
    root = parse(text)
    chains = root.findall("IntegratorParameters/Chain")
    states = {}
    for order, place in enumerate(live):
        own = copy.deepcopy(root)
        for name in _ATOM:
            block = own.find(name)
            block[:] = block[place * n_atoms : (place + 1) * n_atoms]
        parameters = own.find("IntegratorParameters")
        if chains:
            parameters[:] = [copy.deepcopy(chains[_CHAINS_PER_THERMOSTAT * order])]
        states[place] = etree.tostring(own, pretty_print=True).decode()
    return states


def join_states(states: dict[int, str], parked_nm: NDArray[np.float64]) -> str:
    """State XML of all copies from those of the live ones; the others stand still.

    Args:
        states: by the place of the copy.
        parked_nm: (n_copies, n_atoms, 3), where copies without a state stand.
    """
    roots = {place: parse(text) for place, text in sorted(states.items())}
    joined = copy.deepcopy(next(iter(roots.values())))
    for name, tag in _ATOM.items():
        block = joined.find(name)
        block[:] = []
        for place, positions in enumerate(parked_nm):
            if place in roots:
                block.extend(copy.deepcopy(atom) for atom in roots[place].find(name))
                continue
            for row in positions if name == "Positions" else np.zeros_like(positions):
                block.append(
                    etree.Element(tag, {axis: repr(float(x)) for axis, x in zip("xyz", row, strict=True)})
                )
    parameters = joined.find("IntegratorParameters")
    if parameters is not None and len(parameters):
        parameters[:] = []
        for root in roots.values():
            parameters.append(copy.deepcopy(root.find("IntegratorParameters/Chain")))
            parameters.append(etree.Element("Chain"))
        del parameters[-1]
    return etree.tostring(joined, pretty_print=True).decode()
