"""`python -m dr.compare`: the runs under a folder, best first, and what can be said of them."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dr.checks.doors import check_compare
from dr.compose import run_door
from dr.config import CompareConfig

if TYPE_CHECKING:
    from dr.reporting.comparison import Comparison


def main(config: CompareConfig) -> None:
    """Print the comparison to stdout."""
    from dr.reporting.comparison import Asked, compare
    from dr.reporting.runs import read_runs
    from dr.reporting.selecting import keep_runs

    runs = keep_runs(read_runs(Path(config.outputs)), config.where or {})
    asked = Asked(baseline=config.baseline, by=config.by, sort=config.sort, draws=config.draws)
    print(_rendered(compare(runs, asked), config.format))


def _rendered(comparison: "Comparison", form: str) -> str:
    from dr.reporting.formats import to_csv, to_json, to_markdown
    from dr.reporting.text_table import render_table

    forms = {"csv": to_csv, "json": to_json, "markdown": to_markdown}
    if form == "html":
        from dr.reporting.html.compared import comparison_data
        from dr.reporting.html.comparison_page import comparison_page

        return comparison_page(comparison_data(comparison))
    if form in forms:
        return forms[form](comparison)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return render_table(comparison, width=width, encoding=sys.stdout.encoding)


if __name__ == "__main__":
    run_door("compare", schema=CompareConfig, check=check_compare, main=main)
