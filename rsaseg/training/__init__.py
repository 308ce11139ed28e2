"""Learning from cases with a lesion mask."""
