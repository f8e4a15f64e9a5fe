"""Data sets of labelled sequences, split by person."""

from model.data.dataset import DataError, Dataset, Normalisation
from model.data.registry import DatasetInfo, available, describe, load

__all__ = ["DataError", "Dataset", "DatasetInfo", "Normalisation", "available", "describe", "load"]
