"""What guards add to an optimizer, read from the compiled program."""

from stabjax.cost.measure import Cost as Cost
from stabjax.cost.measure import ProgramCost as ProgramCost
from stabjax.cost.measure import measure as measure
