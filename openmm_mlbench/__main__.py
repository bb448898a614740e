"""``python -m openmm_mlbench``: the command line; ``train`` also where its libraries are missing."""

import sys
from importlib.util import find_spec

if __name__ == "__main__":
    if sys.argv[1:2] == ["train"] and (find_spec("typer") is None or find_spec("rich") is None):
        from openmm_mlbench.training.__main__ import main as train

        train(sys.argv[2:])
    else:
        from openmm_mlbench.cli import main

        main()
