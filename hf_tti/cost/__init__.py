"""What a run costs: FLOPs, memory, hours and dollars, predicted from its recipe and a GPU or measured here."""

from hf_tti.cost.estimate import CostEstimate, Schedule, estimate, schedule_of, total_of
from hf_tti.cost.gpus import GPUS, Gpu, find_gpu

__all__ = ["GPUS", "CostEstimate", "Gpu", "Schedule", "estimate", "find_gpu", "schedule_of", "total_of"]
