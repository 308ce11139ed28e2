"""Running a network over a volume: device, precision, memory, windows.

Nothing is gathered here, so that `rsaseg.inference.contrast` is to be had without torch: what reads
and aligns an exam begins while torch is being imported.
"""
