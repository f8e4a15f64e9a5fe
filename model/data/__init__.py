"""Data sets of labelled sequences, split by person."""
