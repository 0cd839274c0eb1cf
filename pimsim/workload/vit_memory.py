"""Buffers of a vision transformer on a microcontroller: what is live when, where it lies, and whether it fits.

Source: MCUFormer, Liang et al. 2023, arXiv 2310.16898. Its scheduler was not published; the schedule here follows from what the
paper calls patch-embedding decomposition, token overwriting and operator integration:

* ``patchwise``: one patch of the image is on chip at a time, not the image;
* ``overwrite``: layers that work token by token write over their input, with scratch for one token;
* ``rowwise``: attention goes head by head and row by row, so that one row of scores is on chip, not all of them.

Each linear layer is three factors of inner width ``rank``. Weights lie in flash and take no part.

```python
>>> plan = MemoryPlan.of(schedule(Vit(patch=16, width=192, heads=3)))
>>> plan.peak, plan.peak_step
(113856, 'block 0 head 0 qkv')
>>> STM32F746.accepts(plan)
True

```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field, model_validator

from pimsim.errors import CapacityExceeded
from pimsim.model import Model, PositiveFloat, PositiveInt


class Vit(Model):
    """Sizes of a vision transformer, in the search space of the publication by default."""

    image: PositiveInt = Field(224, le=4096, description="side of the image in pixels")
    patch: PositiveInt = Field(16, le=4096, description="side of a patch in pixels")
    width: PositiveInt = Field(192, le=65536, description="elements of a token (d)")
    heads: PositiveInt = Field(3, le=32, description="attention heads")
    depth: PositiveInt = Field(12, le=64, description="blocks")
    mlp: PositiveFloat = Field(4.0, le=64, description="hidden width of the feed-forward part over the token's")
    rank_ratio: PositiveFloat = Field(0.5, le=1, description="inner width of a linear layer's factors over the token's")
    element_bytes: PositiveInt = Field(1, le=16, description="bytes of an activation")

    @model_validator(mode="after")
    def _fits(self) -> Vit:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, not {self.width} and {self.heads}")
        if self.patch > self.image:
            raise ValueError(f"patch must be at most image {self.image}, not {self.patch}")
        return self

    @property
    def tokens(self) -> int:
        """Whole patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    @property
    def rank(self) -> int:
        """Inner width of the factors of a linear layer."""
        return max(1, int(self.rank_ratio * self.width))


class Step(NamedTuple):
    """One operation: buffers that it reads or writes in place, and name -> elements of those that it makes."""

    name: str
    uses: tuple[str, ...]
    makes: dict[str, int]
    element_bytes: int = 1


def schedule(vit: Vit, patchwise: bool = True, overwrite: bool = True, rowwise: bool = True) -> list[Step]:
    """Steps of one inference. A buffer that is made and never used again is scratch."""
    steps = _embedding(vit, patchwise)
    for block in range(vit.depth):
        steps += _attention(vit, f"block {block}", overwrite, rowwise)
        steps += _feed_forward(vit, f"block {block}", overwrite)
    steps.append(Step("classifier", ("x",), {"head.scratch": vit.width}))
    return [step._replace(element_bytes=vit.element_bytes) for step in steps]


def _embedding(vit: Vit, patchwise: bool) -> list[Step]:
    tokens = {"x": vit.tokens * vit.width}
    if patchwise:
        return [Step("embedding", (), tokens | {"patch": 3 * vit.patch**2 + 2 * vit.rank})]
    return [Step("image", (), {"image": 3 * vit.image**2}), Step("embedding", ("image",), tokens)]


def _attention(vit: Vit, at: str, overwrite: bool, rowwise: bool) -> list[Step]:
    n, d, d_head = vit.tokens, vit.width, vit.width // vit.heads
    row = d + 2 * vit.rank
    steps: list[Step] = []
    source, out = "x", f"{at}.out"
    if not overwrite:
        source = f"{at}.normed"
        steps.append(Step(f"{at} norm", ("x",), {source: n * d}))
    if rowwise:
        for head in range(vit.heads):
            qkv = f"{at}.qkv.{head}"
            first = {out: n * d} if head == 0 else {}
            kept = ("x", source, *(() if head == 0 else (out,)))
            steps.append(Step(f"{at} head {head} qkv", kept, {qkv: 3 * n * d_head, f"{qkv}.scratch": row} | first))
            steps.append(Step(f"{at} head {head} row", ("x", qkv, out), {f"{at}.scores.{head}": n}))
    else:
        qkv, scores = f"{at}.qkv", f"{at}.scores"
        steps.append(Step(f"{at} qkv", (source,), {qkv: 3 * n * d, f"{qkv}.scratch": row}))
        steps.append(Step(f"{at} scores", ("x", qkv), {scores: vit.heads * n * n}))
        steps.append(Step(f"{at} values", ("x", qkv, scores), {out: n * d}))
    if overwrite:
        steps.append(Step(f"{at} projection", ("x", out), {f"{at}.projection.scratch": row}))
    else:
        projected = f"{at}.projected"
        steps.append(Step(f"{at} projection", ("x", out), {projected: n * d, f"{projected}.scratch": row}))
        steps.append(Step(f"{at} residual", ("x", projected), {}))
    return steps


def _feed_forward(vit: Vit, at: str, overwrite: bool) -> list[Step]:
    n, d, hidden = vit.tokens, vit.width, int(vit.mlp * vit.width)
    if overwrite:
        return [Step(f"{at} mlp", ("x",), {f"{at}.mlp.scratch": d + hidden + 2 * vit.rank})]
    normed, wide, narrow = f"{at}.mlp.normed", f"{at}.mlp.wide", f"{at}.mlp.narrow"
    scratch = 2 * vit.rank
    return [
        Step(f"{at} mlp norm", ("x",), {normed: n * d}),
        Step(f"{at} mlp up", ("x", normed), {wide: n * hidden, f"{wide}.scratch": scratch}),
        Step(f"{at} mlp down", ("x", wide), {narrow: n * d, f"{narrow}.scratch": scratch}),
        Step(f"{at} mlp residual", ("x", narrow), {}),
    ]


class Buffer(NamedTuple):
    """A buffer in the arena: bytes, steps of its life (both included), first byte."""

    size: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where buffers lie."""

    buffers: dict[str, Buffer]
    live: tuple[int, ...]
    """Bytes that are live in each step."""
    steps: tuple[str, ...]

    @classmethod
    def of(cls, steps: list[Step]) -> MemoryPlan:
        """Lives from making to last use; the largest buffers are placed first, each at the lowest free offset.

        Raises:
            ValueError: a step uses a buffer that no step before it made, or makes one again.
        """
        sizes: dict[str, int] = {}
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for at, step in enumerate(steps):
            for name in step.uses:
                if name not in first:
                    raise ValueError(f"step {step.name!r} must use only buffers that were made before it, not {name!r}")
                last[name] = at
            for name, elements in step.makes.items():
                if name in first:
                    raise ValueError(f"step {step.name!r} must make new buffers, not {name!r} again")
                sizes[name], first[name], last[name] = elements * step.element_bytes, at, at
        change = [0] * (len(steps) + 1)
        for name, size in sizes.items():
            change[first[name]] += size
            change[last[name] + 1] -= size
        live, now = [], 0
        for each in change[:-1]:
            now += each
            live.append(now)
        placed: dict[str, Buffer] = {}
        for name in sorted(sizes, key=lambda name: (-sizes[name], first[name], name)):
            beside = sorted(
                (b.offset, b.offset + b.size)
                for b in placed.values()
                if b.first <= last[name] and first[name] <= b.last
            )
            offset = 0
            for start, stop in beside:
                if offset + sizes[name] <= start:
                    break
                offset = max(offset, stop)
            placed[name] = Buffer(sizes[name], first[name], last[name], offset)
        return cls(placed, tuple(live), tuple(step.name for step in steps))

    @property
    def peak(self) -> int:
        """Most bytes that are live in a step: no placement needs less."""
        return max(self.live)

    @property
    def peak_step(self) -> str:
        """The first step with most live bytes."""
        return self.steps[self.live.index(self.peak)]

    @property
    def arena(self) -> int:
        """Bytes that this placement needs."""
        return max((b.offset + b.size for b in self.buffers.values()), default=0)


class Microcontroller(Model):
    """A device on which a plan must fit."""

    name: str = Field(description="name of the device")
    sram_bytes: PositiveInt = Field(description="memory for activations")

    def accepts(self, plan: MemoryPlan) -> bool:
        """Whether the placement fits."""
        return plan.arena <= self.sram_bytes

    def check(self, plan: MemoryPlan) -> None:
        """Raises: CapacityExceeded, if the placement does not fit."""
        if not self.accepts(plan):
            raise CapacityExceeded(
                f"activations must fit into {self.sram_bytes} bytes of {self.name}, not {plan.arena}: {plan.peak} are live in "
                f"{plan.peak_step!r}"
            )


STM32F746 = Microcontroller(name="STM32F746", sram_bytes=320 * 1024)
"""The device of the publication: 320 KB of SRAM (paper)."""
