"""Telemetry: what a step leaves behind, and what it means."""

from stabjax.health.alerts import Explanation as Explanation
from stabjax.health.alerts import Severity as Severity
from stabjax.health.alerts import explain as explain
from stabjax.health.alerts import names_of as names_of
from stabjax.health.alerts import severity as severity
from stabjax.health.schema import TelemetrySchema as TelemetrySchema
from stabjax.health.schema import decode as decode
from stabjax.types import Alert as Alert
