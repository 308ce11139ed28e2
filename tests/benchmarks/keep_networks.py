"""Weights files of a training's networks, each fold's and the final one.

    python tests/benchmarks/keep_networks.py TRAINING [--like WEIGHTS] [--bits 4] -o kept

They see exams and cut lesions as ``--like`` does, which is what ``pair.py`` chose for a look of the
training, or by default the training's own ``weights.safetensors``. ``--bits`` rounds their kernels
as in ``pair.py``. Each of ``fold-0.safetensors`` ... segments the cases that its fold left out as a
network that never saw them; ``final.safetensors`` learned from all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pair import round_kernels

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import make_folder
from rsaseg.networks.weights import load_weights, save_weights
from rsaseg.training.checkpoint import read_average


def main() -> None:
    """Round and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path, help="Folder of `rsaseg train`.")
    parser.add_argument("--bits", type=int, default=10, help="Of the fraction of their kernels.")
    parser.add_argument("--like", type=Path, help="Weights without a partner.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    like = asked.like or asked.training / "weights.safetensors"
    _, info, _ = load_weights(like)
    if info.partner:
        raise InputError(f"{like}: its partner {info.partner} knows the cases that a fold left out")
    networks = sorted(asked.training.glob("*/checkpoint.safetensors"))
    if not networks:
        raise InputError(f"{asked.training}: holds no network; give the folder of a training")
    make_folder(asked.output)
    for path in networks:
        state = round_kernels(read_average(path), asked.bits)
        kept = asked.output / f"{path.parent.name}.safetensors"
        save_weights(kept, state, info)
        print(kept, load_weights(kept)[2])


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
