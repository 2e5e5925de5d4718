"""GPUs that runs are rented on: peak arithmetic, memory, price, and where each figure comes from.

Peaks are dense, from NVIDIA's data sheets; prices are Modal's public list, for the GPU alone, on the date that stands
beside them. Nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_tti.errors import UserError, did_you_mean

PRICES_AS_OF = "2026-07-01"
PRICES_FROM = (
    f"modal.com/pricing on {PRICES_AS_OF}, as transcribed at "
    "github.com/api-evangelist/modal-labs/blob/main/plans/modal-labs-plans-pricing.yml"
)
MOST_IN_A_CONTAINER = 8  # on Modal, but for the A10: modal.com/docs/guide/gpu, "Specifying GPU count"
_GB = 10**9  # as sold: what a program finds free is a few per cent less or more


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        bf16_flops: peak FLOP/s of dense bf16 matrix products with fp32 accumulation; None where there is no bf16.
        fp16_flops: the same in fp16. fp32_flops: in fp32, without tensor cores.
        memory_bytes, bandwidth: of its memory, bytes and bytes per second. cache_bytes: of its L2 cache, of one half
            where it has two.
        dollars_per_hour: list price of one, per second × 3600.
        source: of the price, with its date. data_sheet: of the peaks.
        most_in_a_container: how many Modal attaches to one at most.
        compared: whether tests/benchmarks/bench_cost_published.py has published runs on it.
    """

    bf16_flops: float | None
    fp16_flops: float
    fp32_flops: float
    memory_bytes: int
    bandwidth: float
    cache_bytes: int
    dollars_per_hour: float
    data_sheet: str
    source: str = PRICES_FROM
    most_in_a_container: int = MOST_IN_A_CONTAINER
    compared: bool = False

    def peak(self, precision: str) -> float | None:
        """FLOP/s in `bf16`, `fp16`, `tf32` or `fp32`; None where it has no such arithmetic."""
        tf32 = None if self.bf16_flops is None else self.bf16_flops / 2
        return {"bf16": self.bf16_flops, "fp16": self.fp16_flops, "tf32": tf32, "fp32": self.fp32_flops}[precision]


def _gpu(
    half: float, fp32: float, gigabytes: int, bandwidth: float, cache: int, per_second: float, data_sheet: str, **own
) -> Gpu:
    """From TFLOP/s in 16 bit and in fp32, GB, GB/s, MB of L2 cache, dollars per second."""
    return Gpu(
        bf16_flops=own.get("bf16_flops", half * 1e12),
        fp16_flops=half * 1e12,
        fp32_flops=fp32 * 1e12,
        memory_bytes=gigabytes * _GB,
        bandwidth=bandwidth * 1e9,
        cache_bytes=cache * 10**6,
        dollars_per_hour=round(per_second * 3600, 4),
        data_sheet=data_sheet,
        most_in_a_container=own.get("most_in_a_container", MOST_IN_A_CONTAINER),
        compared=own.get("compared", False),
    )


_A100_40GB = _gpu(312, 19.5, 40, 1555, 20, 0.000583, "NVIDIA A100 data sheet, SXM 40 GB", compared=True)
_H100 = _gpu(989.4, 66.9, 80, 3350, 25, 0.001097, "NVIDIA H100 data sheet, SXM")
GPUS: dict[str, Gpu] = {
    "T4": _gpu(65, 8.1, 16, 320, 4, 0.000164, "NVIDIA T4 data sheet", bf16_flops=None),
    "L4": _gpu(121, 30.3, 24, 300, 48, 0.000222, "NVIDIA L4 data sheet"),
    "A10": _gpu(125, 31.2, 24, 600, 6, 0.000306, "NVIDIA A10 data sheet", most_in_a_container=4),
    "L40S": _gpu(362.05, 91.6, 48, 864, 96, 0.000542, "NVIDIA L40S data sheet", compared=True),
    "A100": _A100_40GB,
    "A100-40GB": _A100_40GB,
    "A100-80GB": _gpu(312, 19.5, 80, 2039, 20, 0.000694, "NVIDIA A100 data sheet, SXM 80 GB", compared=True),
    "H100": _H100,
    "H100!": _H100,  # exactly this one: for `H100` Modal may give an H200 (its GPU guide)
    "H200": _gpu(989.4, 66.9, 141, 4800, 25, 0.001261, "NVIDIA H200 data sheet, SXM"),
    "B200": _gpu(2250, 75, 180, 7700, 63, 0.001736, "NVIDIA HGX B200 data sheet, one of eight"),
}


def find_gpu(name: str) -> Gpu:
    """The GPU of this name, as Modal spells it.

    Raises:
        UserError: there is none; names the choices.
    """
    if name not in GPUS:
        raise UserError(f"--gpu {name}: unknown{did_you_mean(name.upper(), GPUS)}; choices: {', '.join(GPUS)}")
    return GPUS[name]
