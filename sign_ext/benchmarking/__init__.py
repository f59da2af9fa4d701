"""How fast SIGN is on a network, compared with what one would write without sign_ext.

May import the core (`sign` and below) only; commands and `benchmarks/` use it.
"""

from sign_ext.benchmarking.contenders import explain_auto, list_contenders
from sign_ext.benchmarking.race import Cost, Race, Row, costs, race
from sign_ext.benchmarking.task import Task

__all__ = ["Cost", "Race", "Row", "Task", "costs", "explain_auto", "list_contenders", "race"]
