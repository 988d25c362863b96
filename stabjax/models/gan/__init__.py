"""Particle events from a conditional Wasserstein GAN.

The system whose losses stood at +1000 and -1000 from its first step: every fake event
was empty. README.md beside this file says which of its documented fixes hold, and how
to see it.
"""

from stabjax.models.gan.build import build as build
from stabjax.models.gan.config import Config as Config
from stabjax.models.gan.reading import reading as reading
from stabjax.models.gan.summary import CURVES as CURVES
from stabjax.models.gan.summary import SUMMARY as SUMMARY
