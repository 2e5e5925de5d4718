"""Seconds of an optimizer step on a GPU, predicted from the model's shapes; nothing runs.

seconds = max(GPU, CPU).  GPU = Σ FLOPs / (peak · efficiency) over matrix products + bytes / (bandwidth · 0.79) over all
that is read and written, one kernel after the other.  CPU = dispatches · 10 us + 3 ms.

Each constant says where it comes from. Bytes are counted from the kernels that PyTorch runs, eager or fused by
torch.compile. tests/benchmarks/bench_cost_published.py compares with runs that others measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hf_tti.cost.gpus import Gpu
from hf_tti.cost.shapes import Shapes

# One kernel's share of its peak: matrices of 8192 x 8192 reach 230 of 312 TFLOP/s in 16 bit on an A100 (74 %) and 14 of
# 16 in fp32 on a V100 (88 %); a product of vectors moves 1616 of an A100's 2039 GB/s (79 %).
# github.com/mli/transformers-benchmarks, README, 2022.
_MATMUL, _MATMUL_FP32, _BANDWIDTH = 0.74, 0.88, 0.79
_HALF_EFFICIENT = 128  # narrowest side of a weight at which 16-bit products reach half of that: a guess
# FlashAttention reaches 25 to 40 % of an A100's peak, its second version 50 to 73 % on long rows (abstract of
# arXiv:2307.08691); 30 % at 1024 positions with a causal mask and less for shorter rows is a guess.
_FLASH, _HALF_FLASH = 0.4, 340
# 16-bit products with rows of logits that are no multiple of 16 bytes: "padding these matmuls achieves nearly a 3x
# speedup", pytorch.org/blog/accelerating-large-language-models, 2023. By 2024 torch.compile loses little by them.
_UNALIGNED = 3.0
# An aten dispatch with the Python above it: HF's BERT with eager attention, 4 x 256 tokens on an A100, takes 23 ms for
# forward and backward (transformers' page on BERT, 2024) and dispatches 2248 times; with sdpa it takes 17 ms.
_DISPATCH_SECONDS, _FUSED_ATTENTION_SAVES = 10e-6, 40  # dispatches a layer
_COMPILED_DISPATCHES = 0.5  # of the eager ones: a guess
_LOOP_SECONDS = 3e-3  # data, gradient norm, update, scheduler, logging on the CPU: a guess


@dataclass(frozen=True)
class Step:
    """Seconds of an optimizer step.

    Attributes:
        matmul, attention, memory: on the GPU, one after the other. launches: on the CPU, meanwhile.
    """

    matmul: float
    attention: float
    memory: float
    launches: float

    @property
    def seconds(self) -> float:
        return max(self.matmul + self.attention + self.memory, self.launches)

    @property
    def bound(self) -> str:
        """What most of it goes to: arithmetic, memory traffic or kernel launches."""
        if self.launches >= self.matmul + self.attention + self.memory:
            return "kernel launches"
        return "arithmetic" if self.matmul + self.attention > self.memory else "memory traffic"


def predicted_step(
    shapes: Shapes,
    card: Gpu,
    *,
    num_rows: int,
    length: int,
    precision: str,
    accumulation: int = 1,
    compiled: bool = False,
    attention: str = "sdpa",
    recomputed: bool = False,
    fused_optimizer: bool = True,
    optimizer: bool = True,
    clipped: bool = True,
    pads_vocabulary: bool = True,
    cross_entropy: bool = True,
    objective_flops: float = 0.0,
) -> Step:
    """Of `accumulation` micro-batches of `num_rows` x `length` tokens and an update, on one GPU.

    Args:
        precision: `bf16` or `fp16` (autocast over fp32 weights), `half` (weights in 16 bit too), `fp32`, `tf32`.
        attention: `sdpa`, one fused kernel, or `eager`, with its [B, h, T, T] matrices in memory.
        recomputed: with gradient checkpointing.
        fused_optimizer, clipped: AdamW in one kernel, gradients clipped. optimizer: False for forward and backward.
        pads_vocabulary: whether torch.compile does, not in early 2023.
        cross_entropy: False where the logits are only summed.
        objective_flops: of one micro-batch.
    """
    run = _Run(shapes, card, num_rows, length, precision, compiled, attention)
    again = 4 / 3 if recomputed else 1.0
    peak, bandwidth = _peak(card, precision), card.bandwidth * _BANDWIDTH
    matmul = sum(flops * 3 / (peak * efficiency) for flops, efficiency in run.products()) * again
    matmul += run.head_flops() * 3 / (peak * run.efficiency(shapes.head[0])) * run.misaligned(pads_vocabulary)
    matmul += objective_flops / (peak * _MATMUL)
    flash = run.flash_seconds(peak, again) if attention == "sdpa" else 0.0
    bytes_ = run.tokens * (shapes.num_layers * run.layer_bytes() * again + run.head_bytes(cross_entropy))
    bytes_ += run.weight_bytes(accumulation)
    once = run.update_bytes(fused_optimizer, clipped) if optimizer else 0.0
    fused = _FUSED_ATTENTION_SAVES * shapes.num_layers if attention == "sdpa" else 0
    dispatches = (shapes.dispatches - fused) * again * (_COMPILED_DISPATCHES if compiled else 1.0)
    return Step(
        matmul=matmul * accumulation,
        attention=flash * accumulation,
        memory=(bytes_ * accumulation + once) / bandwidth,
        launches=accumulation * dispatches * _DISPATCH_SECONDS + (_LOOP_SECONDS if optimizer else 0.0),
    )


def _peak(card: Gpu, precision: str) -> float:
    """FLOP/s that a kernel's share refers to, 74 % in any precision."""
    if precision == "half":
        return card.fp16_flops
    peak = card.peak(precision)
    return peak * _MATMUL_FP32 / _MATMUL if precision == "fp32" else peak


@dataclass(frozen=True)
class _Run:
    """Counts of one micro-batch, forward and backward; bytes a token unless it says otherwise."""

    shapes: Shapes
    card: Gpu
    num_rows: int
    length: int
    precision: str
    compiled: bool
    attention: str

    @property
    def tokens(self) -> int:
        return self.num_rows * self.length

    @property
    def half(self) -> bool:
        return self.precision in ("bf16", "fp16", "half")

    @property
    def autocast(self) -> bool:
        return self.precision in ("bf16", "fp16")

    @property
    def size(self) -> int:
        """Bytes of an activation."""
        return 2 if self.half else 4

    def efficiency(self, inner: int) -> float:
        if not self.half and self.precision != "tf32":
            return _MATMUL  # of a peak that is scaled for it
        return _MATMUL * inner / (inner + _HALF_EFFICIENT)

    def products(self) -> Iterator[tuple[float, float]]:
        """Forward FLOPs and efficiency of each linear layer, and of attention where it is made of products."""
        for inner, outer in self.shapes.linears:
            yield 2 * self.tokens * inner * outer, self.efficiency(min(inner, outer))
        if self.attention == "eager":
            width = self.shapes.attention
            yield 4 * self.shapes.num_layers * self.tokens * self.length * width, _MATMUL

    def head_flops(self) -> float:
        return 2 * self.tokens * self.shapes.head[0] * self.shapes.head[1]

    def misaligned(self, pads_vocabulary: bool) -> float:
        aligned = self.shapes.head[1] % 8 == 0 or not self.half or (self.compiled and pads_vocabulary)
        return 1.0 if aligned else _UNALIGNED

    def flash_seconds(self, peak: float, again: float) -> float:
        """Causal: half of the products forward, 2.5 times that backward, once more where they are recomputed."""
        forward = 2 * self.shapes.num_layers * self.tokens * self.length * self.shapes.attention
        share = _FLASH * self.length / (self.length + _HALF_FLASH)
        return forward * (3.5 + 3 * (again - 1)) / (peak * share)

    def uncached(self, width: float) -> float:
        """Share of an activation's traffic that reaches memory: what fits into half of the cache is read from there by
        the next kernel, what fills it is not. A rule that OPT's times on an L40S gave.
        """
        filled = self.tokens * width * self.size / self.card.cache_bytes
        return min(1.0, max(0.5, filled))

    def layer_bytes(self) -> float:
        """Of one layer."""
        s, r = self.size, 2 if self.precision == "half" else 4
        casts = 18 if self.autocast else 0
        linear = sum(
            (3 * s * (inner + outer) + s * outer) * self.uncached((inner + outer) / 2)
            for inner, outer in self.shapes.linears
        )
        norm = 7 * r + 4 * s if self.compiled else 12 * r + s + casts
        if self.shapes.composite_norm and not self.compiled:
            norm *= 2
        if self.shapes.dropout:
            norm += 2 if self.compiled else 4 * s + 2
        around = 2 * norm * self.shapes.width * self.uncached(self.shapes.width)
        inside = self._activation_bytes() * self.uncached(self.shapes.activation)
        return linear / self.shapes.num_layers + around + inside + self._attention_bytes()

    def _activation_bytes(self) -> float:
        s, width = self.size, self.shapes.activation
        if self.compiled:
            return (8 if self.shapes.gated else 5) * s * width
        if self.shapes.composite_activation:
            return (165 if self.autocast else 55 * s) * width
        return (14 if self.shapes.gated else 5) * s * width

    def _attention_bytes(self) -> float:
        s, width = self.size, self.shapes.attention
        rotary = 48 * s * width if self.shapes.rotary and not self.compiled else 0
        inputs = (22 * s * width + rotary) * self.uncached(width)
        if self.attention == "sdpa":
            return inputs
        dropout = (2 if self.compiled else 18) if self.shapes.dropout else 0
        eager = {"half": 38}.get(self.precision, 72 if self.autocast else 76)
        scores = (11 * s if self.compiled else eager) + dropout
        return inputs - 8 * s * width + scores * self.shapes.num_heads * self.length

    def head_bytes(self, cross_entropy: bool) -> float:
        """Logits, cross-entropy and their gradient; products with the head included."""
        width, vocabulary = self.shapes.head
        products = 3 * (width + vocabulary) * self.size
        if not cross_entropy:
            return products
        if self.compiled:
            return products + 3 * self.size * vocabulary
        return products + (36 if self.autocast else 6 * self.size) * vocabulary

    def weight_bytes(self, accumulation: int) -> float:
        """Of a micro-batch: weights read twice and gradients written, both cast, and gradients added up."""
        each = 3 * self.size + (12 if self.autocast else 0) + (12 if accumulation > 1 else 0)
        return each * self.shapes.num_parameters

    def update_bytes(self, fused: bool, clipped: bool) -> float:
        """Of an optimizer step: AdamW reads four and writes three numbers a parameter, unfused over and over."""
        size = 2 if self.precision == "half" else 4
        return size * self.shapes.num_parameters * ((7 if fused else 16) + (3 if clipped else 0))
