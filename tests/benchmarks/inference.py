"""Times `rsaseg predict` from command to mask on the 1 mm exams, beside MONAI's inferer.

    python tests/benchmarks/inference.py [--data ../shared/data/labelled] [--weights NAME]

The bar is 10 s and 3 GB on two cores. For each exam, in one run:

- the command `rsaseg predict` in a process of its own: seconds and peak memory;
- in another process, the same network on the same input tensor: MONAI's sliding_window_inference
  (Gaussian, the same window and overlap), rsaseg's windows, and what rsaseg does by default; and
  the largest difference in probability between MONAI's and rsaseg's windows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rsaseg.networks.shipped import DEFAULT_WEIGHTS

BAR_S, BAR_GB = 10.0, 3.0
DATA = Path(__file__).parents[2] / "../shared/data/labelled"
OVERLAP = 0.5


def timed(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, peak memory in GB and output.

    This process stays small: a child's peak counts from its parent's.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    return seconds, usage.ru_maxrss * 1024 / 1e9, text


def compare_inferers(case: Path, weights: str) -> dict[str, float]:
    """Seconds of each way to run one network on one exam's input tensor."""
    import torch
    from monai.inferers import sliding_window_inference

    from rsaseg.inference.probability import predict_probability
    from rsaseg.inference.windows import predict_windows
    from rsaseg.preprocessing import prepare
    from rsaseg.segmentation.model import load_model
    from rsaseg.segmentation.segment import read_exam

    model = load_model(weights)
    network, window = model.network.eval(), model.info.window_vox
    files = [case / f"{name}.nii.gz" for name in ("T1", "T2", "FLAIR")]
    seen = prepare(read_exam(*files), model.info.input)
    image = torch.from_numpy(seen.image[:, :: seen.turns])  # one turn of one network
    found = {}

    def clock(name, run):
        start = time.perf_counter()
        with torch.inference_mode():
            result = run()
        found[f"{name}_s"] = time.perf_counter() - start
        return result

    clock("warm_up", lambda: network(image[None, :, :16, :64, :64]))
    theirs = clock(
        "monai",
        lambda: sliding_window_inference(
            image[None], window, 1, network, overlap=OVERLAP, mode="gaussian"
        )[0].softmax(0)[1],
    )
    ours = clock("windows", lambda: predict_windows(network, image, window, OVERLAP).softmax(0)[1])
    default = clock(
        "default", lambda: predict_probability(network, image, window, torch.device("cpu"))
    )
    found["difference"] = float((ours - theirs).abs().max())
    found["whole"] = float(default.window_vox is None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        print(json.dumps(compare_inferers(options.compare, options.weights)))
        return
    cases = [c for c in sorted(options.data.glob("*")) if not c.name.startswith("tabriz")]
    if not cases:
        sys.exit(f"needs labelled exams in {options.data}")
    print(
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before the start;",
        end=" ",
    )
    print(f"bar {BAR_S:.0f} s and {BAR_GB:.0f} GB")
    head = ["exam", "predict s", "GB", "network: MONAI s", "windows s", "default s", "difference"]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    worst_s = worst_gb = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            mask = Path(scratch) / f"{case.name}.nii.gz"
            files = [str(case / f"{name}.nii.gz") for name in ("T1", "T2", "FLAIR")]
            command = [sys.executable, "-m", "rsaseg", "predict", "--weights", options.weights]
            command += ["--t1", files[0], "--t2", files[1], "--flair", files[2], "-o", str(mask)]
            seconds, peak_gb, _ = timed(command)
            worst_s, worst_gb = max(worst_s, seconds), max(worst_gb, peak_gb)
            again = [sys.executable, __file__, "--weights", options.weights, "--compare", str(case)]
            found = json.loads(timed(again)[2].splitlines()[-1])
            cells = [case.name, f"{seconds:.1f}", f"{peak_gb:.2f}", f"{found['monai_s']:.1f}"]
            cells += [f"{found['windows_s']:.1f}", f"{found['default_s']:.1f}"]
            cells += [f"{found['difference']:.1e}"]
            print("| " + " | ".join(cells) + " |", flush=True)
    verdict = "met" if worst_s <= BAR_S and worst_gb <= BAR_GB else "MISSED"
    print(f"slowest {worst_s:.1f} s, largest {worst_gb:.2f} GB: bar {verdict}")


if __name__ == "__main__":
    main()
