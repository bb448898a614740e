"""What ``train`` can be told, in words: both command lines show these."""

HELP = {
    "model": "Architecture; `openmm-mlbench models` lists them.",
    "system": "Name of a system or data set, or a file.",
    "out": "Where to write.",
    "data": "File of the data set, instead of where it is looked for.",
    "size": (
        "Training and validation frames as in the paper: 1k (950 and 50), 10k, 20k, 40k, 90k; the data set's "
        "default split if not given."
    ),
    "labels": "Label set of an MD17 file: md17 or rmd17.",
    "recipe": (
        "paper; fast, for about 1,000 frames and limited time; or a YAML file. Of a resumed run: its own, if not given."
    ),
    "train_frames": "Training frames, instead of --size.",
    "validation_frames": "With --train-frames.",
    "test_frames": "With --train-frames.",
    "epochs": "Upper limit; the recipe's if not given.",
    "minutes": "Upper limit of computing time, over all resumes.",
    "batch_size": "Frames per step, of all processes together.",
    "learning_rate": "At the start.",
    "seed": "Of weights, batch order and, with --train-frames, the split; 0 if not given.",
    "device": "cpu, cuda or auto.",
    "threads": "CPU threads; one is fastest below 100 atoms.",
    "processes": (
        "Train together on this machine, each with its share of every batch and, with cuda, its own GPU; torchrun "
        "does it on several."
    ),
    "resume": "Go on in the same folder.",
}
