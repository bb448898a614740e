"""Metadynamics while a simulation runs: one description, two backends.

bias.py       what a backend offers to a replica, and which one is taken
hills.py      the bias on its grid; HILLS and COLVAR in PLUMED's format
native.py     OpenMM's own forces
plumed.py     openmm-plumed, with a plumed.dat rendered from the protocol
"""
