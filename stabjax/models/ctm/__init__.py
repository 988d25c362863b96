"""Continuous thought machine on ARC grids, with an MCMC loss and plastic synapses.

The system whose MCMC loss ran from +3500 to below -400 and never came back. README.md
beside this file says which of its documented fixes hold, and how to see it.
"""

from stabjax.models.ctm.build import build as build
from stabjax.models.ctm.config import Config as Config
from stabjax.models.ctm.reading import reading as reading
from stabjax.models.ctm.summary import CURVES as CURVES
from stabjax.models.ctm.summary import SUMMARY as SUMMARY
