"""Scores of many exams: pairing masks, one exam's figures, and what all of them say together."""
