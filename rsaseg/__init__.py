"""RSANet: multiple-sclerosis lesion segmentation on T1, T2 and T2-FLAIR."""

__version__ = "0.1.0"
