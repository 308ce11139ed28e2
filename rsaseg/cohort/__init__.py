"""Many exams: finding them, segmenting each, and telling what came of them."""
