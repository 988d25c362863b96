"""Proximal policy optimization with one value head per reward component.

The system whose loss grew fivefold while its reward collapsed. README.md beside this
file says which of its documented fixes hold, and how to see it.
"""

from stabjax.models.ppo.build import build as build
from stabjax.models.ppo.config import Config as Config
from stabjax.models.ppo.reading import reading as reading
from stabjax.models.ppo.summary import CURVES as CURVES
from stabjax.models.ppo.summary import SUMMARY as SUMMARY
