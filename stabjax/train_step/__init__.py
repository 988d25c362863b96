"""A loss, an optimizer and guards become one jitted, donated train step."""

from stabjax.train_step.halted import StateDamaged as StateDamaged
from stabjax.train_step.halted import TrainingHalted as TrainingHalted
from stabjax.train_step.halted import raise_if_halted as raise_if_halted
from stabjax.train_step.make import SnapshotMemory as SnapshotMemory
from stabjax.train_step.make import TrainStep as TrainStep
from stabjax.train_step.make import make_train_step as make_train_step
from stabjax.train_step.state import Row as Row
from stabjax.train_step.state import Snapshot as Snapshot
from stabjax.train_step.state import TrainState as TrainState
