"""Recursive solver of ARC tasks from a few demonstrations, with meta losses and clues.

The system that reached 51 % of its training tasks and none of the others, lost batches
to NaN, and whose six fixes were documented. README.md beside this file says which of
them hold, and how to see it.
"""

from stabjax.models.rlan.build import build as build
from stabjax.models.rlan.config import Config as Config
from stabjax.models.rlan.reading import reading as reading
from stabjax.models.rlan.summary import CURVES as CURVES
from stabjax.models.rlan.summary import SUMMARY as SUMMARY
