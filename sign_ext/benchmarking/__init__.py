"""How fast SIGN is on a network, beside what one would write without sign_ext."""

from sign_ext.benchmarking.contenders import ways, what_auto_runs
from sign_ext.benchmarking.cost import Cost, costs
from sign_ext.benchmarking.race import Race, Row, race
from sign_ext.benchmarking.task import Task

__all__ = ["Cost", "Race", "Row", "Task", "costs", "race", "ways", "what_auto_runs"]
