"""Segmenting cases that a network has not learned from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsaseg.anatomy import brain_region
from rsaseg.imaging import write_array
from rsaseg.inference.probability import predict_in_turns, predict_mirrored
from rsaseg.preprocessing import InputSpec, prepare, to_flair_grid
from rsaseg.training.cases import CaseFiles, read_exam
from rsaseg.training.recipe import Recipe
from rsaseg.training.selection import KeptCase


def segment_unseen(
    files: CaseFiles,
    network: nn.Module,
    spec: InputSpec,
    recipe: Recipe,
    device: torch.device,
    kept: Path,
) -> KeptCase:
    """Keep the lesion probability that a network gives for a case it has not learned from.

    Where the file ``kept`` is there already, nothing is done.
    """
    if not kept.exists():
        exam = read_exam(files)
        seen = prepare(exam, spec)
        image = torch.from_numpy(seen.image)
        predict = partial(
            predict_in_turns,
            network,
            turns=seen.turns,
            window_vox=recipe.crop_vox,
            device=device,
        )
        answer = predict(image).probability
        if seen.mirrored:
            answer = (answer + predict_mirrored(predict, image).probability) / 2
        probability = to_flair_grid(answer.numpy(), seen.grid, exam["FLAIR"].grid)
        brain = brain_region(exam)
        if brain is not None:  # what lies outside is left out, as in use
            probability *= brain
        write_array(kept, probability.astype(np.float16))
    return KeptCase(files, kept)
