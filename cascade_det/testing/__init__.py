"""The contracts as checks: a plug-in author runs one line for each part; the framework's own tests run the same.

Each check raises a `ContractError`, an AssertionError that says in one sentence which invariant broke, with the values.
"""

from __future__ import annotations

from cascade_det.testing.contract import ContractError
from cascade_det.testing.head import check_head
from cascade_det.testing.net import check_net
from cascade_det.testing.sampler import check_sampler
from cascade_det.testing.source import check_source
from cascade_det.testing.stage import check_stage

__all__ = ["ContractError", "check_head", "check_net", "check_sampler", "check_source", "check_stage"]
