"""All hostile files, each with what uses it: none runs, none leads out; `refused` ones are refused in one line."""

import hostile_data
import hostile_models
import hostile_reports
import hostile_runs
from hostile_list import FILES

__all__ = ["FILES", "hostile_data", "hostile_models", "hostile_reports", "hostile_runs"]
