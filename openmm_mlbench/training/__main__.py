"""``python -m openmm_mlbench.training``: train where only torch, numpy, h5py and e3nn are installed."""

import argparse
import shlex
import sys
from pathlib import Path

from openmm_mlbench.errors import MLBenchError
from openmm_mlbench.training.options import HELP


def parser() -> argparse.ArgumentParser:
    """The options of ``openmm-mlbench train``."""
    found = argparse.ArgumentParser(
        prog="python -m openmm_mlbench.training",
        description="Train a network; export best.pt of the folder afterwards.",
        allow_abbrev=False,
    )

    def add(name: str, *also: str, **settings: object) -> None:
        found.add_argument(f"--{name.replace('_', '-')}", *also, help=HELP[name], **settings)  # type: ignore[arg-type]

    found.add_argument("model", help=HELP["model"])
    found.add_argument("source", metavar="system", help=HELP["system"])
    add("out", "-o", type=Path, required=True)
    add("data", type=Path)
    for name in ("size", "labels", "recipe"):
        add(name)
    add("train_frames", type=int)
    add("validation_frames", type=int, default=50)
    add("test_frames", type=int, default=1000)
    for name, kind in (
        ("epochs", int),
        ("minutes", float),
        ("batch_size", int),
        ("learning_rate", float),
        ("seed", int),
    ):
        add(name, type=kind)
    add("device", default="auto")
    add("threads", type=int, default=1)
    add("processes", type=int, default=1)
    add("resume", action="store_true")
    return found


def main(arguments: list[str] | None = None) -> None:
    """A user's mistake becomes one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    options = vars(parser().parse_args(given))
    processes = options.pop("processes")
    try:
        from openmm_mlbench.training.launch import train, train_in_processes, without_processes
        from openmm_mlbench.training.start import Request

        if processes != 1:
            train_in_processes(processes, without_processes(given))
            return
        command = shlex.join(["python", "-m", "openmm_mlbench.training", *given])
        line = train(
            Request(**options, command=command), lambda text: print(text, file=sys.stderr, flush=True)
        )
        if line is not None:
            print(line)
    except KeyboardInterrupt:
        print("error: interrupted; what was complete is kept, go on with --resume", file=sys.stderr)
        sys.exit(2)
    except (MLBenchError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
