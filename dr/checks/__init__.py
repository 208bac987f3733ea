"""Checks of configuration values that need neither the data nor torch.

Every check returns problems instead of raising at the first, so that a user sees all at once.
"""

from dr.checks.doors import check_inspect, check_predict, check_prepare, check_report_door
from dr.checks.searching import check_search
from dr.checks.training import check_find_lr, check_train

__all__ = [
    "check_find_lr",
    "check_inspect",
    "check_predict",
    "check_prepare",
    "check_report_door",
    "check_search",
    "check_train",
]
