"""Causal graph learning from tables and time series.

The system whose edges stayed at zero while its gradients were "fixed". README.md beside
this file says which of its documented fixes hold, and how to see it.
"""

from stabjax.models.causal.build import build as build
from stabjax.models.causal.config import Config as Config
from stabjax.models.causal.reading import reading as reading
from stabjax.models.causal.summary import CURVES as CURVES
from stabjax.models.causal.summary import SUMMARY as SUMMARY
