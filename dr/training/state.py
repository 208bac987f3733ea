"""How far a fold is, in the form that its checkpoint holds."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from dr.training.learner import Learner
from dr.training.loop import Tally


@dataclass(kw_only=True)
class FoldState:
    """`epoch` (from 0) is under way, as far as `tally` says; `history` has those before it."""

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    history: list[dict[str, Any]] = field(default_factory=list)

    def next_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is over, evaluation included; `row` is its line of the history."""
        self.history.append(row)
        self.epoch, self.tally = self.epoch + 1, Tally()


def pack_state(state: FoldState, learner: Learner) -> dict[str, Any]:
    """What a checkpoint holds: tensors, and the fold's state as JSON text."""
    return {**learner.state(), "state": json.dumps(dataclasses.asdict(state))}


def unpack_state(packed: dict[str, Any], learner: Learner) -> FoldState:
    """Give `learner` its state back, and return the fold's."""
    learner.load_state(packed)
    values = json.loads(packed["state"])
    return FoldState(**values | {"tally": Tally(**values["tally"])})
