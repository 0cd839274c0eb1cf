"""Several tokens in a forward pass of a hybrid machine: prompts and batches on channels and streaming unit.

Products and attention of a group go to either side as a whole; weights that lie on the streaming unit are read once for all
tokens of the group, which have their inputs and results side by side in the unit's buffer. Norms, rotations and the like are
the ASIC's, token by token, in *slots* of its SRAM. Where there are fewer slots than tokens, tokens take turns in *waves*: a
*stage* (what lies between two pieces of work on the streaming unit) is done for one wave after the other, and what a later
stage needs of a token is parked in the unit's buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.arch.hybrid import FPGA, LINK_IN, LINK_OUT
from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded
from pimsim.mapper.builder import Part, Result
from pimsim.mapper.group import Group, GroupMapping, SlotLowering, owned
from pimsim.mapper.hybrid import HybridMapping
from pimsim.mapper.lower.ops import lower_attention_together
from pimsim.mapper.mapping import renamed
from pimsim.mapper.placement import Sides, work_of
from pimsim.program.isa import Block, Compute, Kernel, Transfer
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph


class HybridGroupMapping(GroupMapping, HybridMapping):
    """A `GroupMapping` some of whose work is on the streaming unit.

    Attributes:
        slots: tokens whose vectors are in the SRAM at once.
        queries: most tokens of a sequence that a kernel of attention takes.
    """

    queries = 1

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> None:
        """Map.

        Raises:
            CapacityExceeded: as `GroupMapping` and `HybridMapping`.
        """
        self.slots = workload.together
        super().__init__(workload, graph, arch, spec)
        self._known: dict[tuple[object, ...], Block] = {}
        self._results: dict[tuple[object, ...], list[Result | None]] = {}

    # -- decisions ------------------------------------------------------------------------------------------------

    def sides_of(self, group: Group) -> Sides:
        """Who does what in the pass of a group."""
        return self.prompt_sides if self._is_prompt(group) else self.sides

    def _is_prompt(self, group: Group) -> bool:
        return self.workload.prefill == "matrix" and group[0].position < self.workload.prompt_tokens

    def _phases(self) -> Iterator[tuple[Sides, int]]:
        """(sides, most tokens of a group) of the passes that there are."""
        work = self.workload
        if work.prefill == "matrix":
            yield self.prompt_sides, min(work.prefill_tokens, work.prompt_tokens)
        if work.prefill != "matrix" or work.generate_tokens > 1:
            yield self.sides, work.batch

    def streamed_tokens(self, work: str) -> int:
        """Most tokens that the streaming unit takes at once of a kind of work; 0 if it takes none."""
        return max((tokens for sides, tokens in self._phases() if sides.get(work) == "fpga"), default=0)

    def _in_dram(self, work: str) -> bool:
        return any(sides.get(work, "pim") == "pim" for sides, _ in self._phases())

    @property
    def at_once(self) -> int:
        """Most tokens that share an opened row on the channels."""
        products = {op.kind for op in self._layers[0] if isinstance(op, ops.Linear)}
        most = max(
            (tokens for sides, tokens in self._phases() if any(sides.get(kind) != "fpga" for kind in products)),
            default=self.workload.batch,
        )
        return min(most, self.arch.pim.accumulators)

    @property
    def copies(self) -> int:
        """Tokens whose vectors are in the SRAM at once."""
        return self.slots

    def _map_sram(self, element: int) -> None:
        """As many slots as there are tokens or, if the unit may keep what they park, as fit the SRAM with all scores.

        Where tokens share opened rows, no fewer than do so; then scores may come in passes of heads.
        """
        heads, step, choices = self.workload.model.heads, self.at_once, [self.together]
        if self.arch.placement != "pim_only":  # type: ignore[attr-defined]
            choices += [n for n in range(self.together - 1, 0, -1) if n % step == 0 or n < step]
        in_passes: list[int] = []
        for self.slots in choices:
            try:
                super()._map_sram(element)
            except CapacityExceeded:
                if self.slots == choices[-1] and not in_passes:
                    raise
                continue
            if self.slots == self.together or self.heads_per_pass >= heads:
                return
            in_passes.append(self.slots)
            if self.slots <= step:
                break
        self.slots = in_passes[0]
        super()._map_sram(element)

    def _map_buffer(self) -> None:
        """As many queries in a kernel of attention as there is space for; what tokens park comes last."""
        prompt = self.workload.prefill == "matrix" and self.prompt_sides.get("attention") == "fpga"
        self.queries = min(self.workload.prefill_tokens, self.workload.prompt_tokens) if prompt else 1
        while True:
            try:
                super()._map_buffer()
            except CapacityExceeded:
                if self.queries == 1:
                    raise
                self.queries = (self.queries + 1) // 2
            else:
                return

    def _add_to_buffer(self) -> None:
        if self.slots < self.together:
            for name, width in self._parked().items():
                self.stream.add(f"park.{name}", self.together * width)

    def _parked(self) -> dict[str, int]:
        """Results that tokens may have to park, by their names in a layer, and elements of each."""
        model = self.workload.model
        before, attention, after = self._split_layer()
        attended, d = model.heads * model.head_width, model.d_model
        widths = {"x": d, _short(before[-1]): attended + 2 * model.key_value_heads * model.head_width}
        widths |= {_short(attention[-1]): attended}
        widths |= {_short(op): d for op in after[:-1] if isinstance(op, ops.Residual)}
        if (
            model.parallel_residual
        ):  # the norm is read on both sides of attention, and the feed-forward part may come first
            widths |= {_short(op): d for op in (before[0], *after) if op is before[0] or op.kind == "ffn_down"}
        return widths

    def shift(self, slot: int) -> int:
        """SRAM elements from the vectors of the first token of a group to those of another."""
        return slot % self.slots * self.stride

    def suffix(self, slot: int) -> str:
        """Behind the names of operations of a token that is not of the first wave."""
        return f"#{slot // self.slots}" if slot >= self.slots else ""

    def parks(self, group: Group) -> bool:
        """Whether tokens of a group take turns in the SRAM."""
        return len(group) > self.slots

    # -- program --------------------------------------------------------------------------------------------------

    def layer_blocks(self, group: Group) -> tuple[Block, ...]:
        """The blocks of a decoder block; only attention depends on the places of the tokens."""
        return self._projection_of(group), self._attention_of(group), self._rest_of(group)

    def _key(self, name: str, group: Group) -> tuple[object, ...]:
        """What groups have in common whose blocks of this name are the same."""
        return name, len(group), self._is_prompt(group)

    def _projection_of(self, group: Group) -> Block:
        key = self._key("projection", group)
        if key not in self._known:
            before, attention, _ = self._split_layer()
            flow = _Flow(self, "projection", group)
            flow.enter_layer(before[0].inputs[0])
            streamed = {before[-1].name: ("attention.in", f"{_short(before[-1])}.sent")}
            kept = (before[-1], *before[: self.workload.model.parallel_residual])
            flow.run(before, kept, streamed if flow.streams(attention[0]) else {})
            self._known[key] = flow.shared.build()
            self._results[key] = [b.results.get(before[-1].name) for b in flow.lowerings]
        return self._known[key]

    def _attention_of(self, group: Group) -> Block:
        before, attention, _ = self._split_layer()
        flow = _Flow(self, "attention", group)
        if flow.streams(attention[0]):
            flow.attend(before[-1], attention)
        else:
            flow.enter_attention(before[-1], self._results[self._key("projection", group)])
            flow.run(attention, attention[-1:])
        return flow.shared.build()

    def _rest_of(self, group: Group) -> Block:
        key = self._key("feed_forward", group)
        if key not in self._known:
            before, attention, after = self._split_layer()
            flow = _Flow(self, "feed_forward", group)
            flow.enter_rest(before, attention)
            flow.run(self._rest_order(after), after[-1:], {after[-1].name: ("park.x", "x")} if flow.parks else {})
            block = flow.shared.build()
            for slot in range(0 if flow.parks else len(group)):
                block = renamed(block, f"{_short(after[-1])}@{slot}", f"x@{slot}")
            self._known[key] = block
        return self._known[key]

    def _embeddings(self, group: Group, tokens: Sequence[int]) -> Block:
        if not self.parks(group):
            return super()._embeddings(group, tokens)
        op = next(op for op in self.graph if isinstance(op, ops.Embedding))
        flow = _Flow(self, "embedding", group)
        flow.enter_pass(tokens)
        flow.run([op], [op], {op.name: ("park.x", "embed.sent")})
        return flow.shared.build()

    def _logits(self, slots: tuple[int, ...], group: Group) -> Block:
        if not self.parks(group):
            return super()._logits(slots, group)
        key = *self._key("head", group), slots
        if key not in self._known:
            found = self._layers[-2]
            flow = _Flow(self, "head", group, slots)
            flow.enter_head(found[0].inputs[0])
            flow.run(found)
            self._known[key] = flow.shared.build()
        return self._known[key]


_Places = Mapping[str, tuple[str, str]]
"""Operation -> (where its results go in the buffer of the unit, the token that says that one is there)."""


class _Remote(NamedTuple):
    """A result in the buffer of the streaming unit: one vector for each token of the group, side by side."""

    base: int
    width: int
    home: int
    """Where it belongs in the slot of a token, in elements of the SRAM."""
    ready: tuple[str, ...] = ()
    """What says that it is there; a name without an ``@`` is that of each token of the group."""
    of: ops.OpNode | None = None
    """The operation that the unit has carried out, unless it is only parked."""


class _Flow:
    """Puts together a block for the tokens of a group: stage after stage, each of them wave after wave."""

    def __init__(
        self, mapping: HybridGroupMapping, name: str, group: Group, slots: Sequence[int] | None = None
    ) -> None:
        """``slots``: tokens of the group that take part; by default, all."""
        self._mapping, self._group, self.parks = mapping, group, mapping.parks(group)
        self._slots = list(range(len(group)) if slots is None else slots)
        self._sides = mapping.sides_of(group)
        self._together = mapping.lowerings_of(name, self._slots, [group[slot].context for slot in self._slots])
        self.shared, self.lowerings = self._together.shared, self._together.lowerings
        self._remote: dict[str, _Remote] = {}
        self._left: dict[int, tuple[str, ...]] = {}
        """Place in the SRAM -> behind which tokens nobody needs what the last one there has left."""
        self._before: tuple[str, ...] = ()
        """The same for all places, as blocks before this one have left them."""
        self._homes: dict[str, int] = {}
        """Result that is parked -> where it was in the slot of a token."""
        self._fetched: set[tuple[int, int]] = set()
        """(stage, token of the group) of which something has been fetched."""

    def streams(self, op: ops.OpNode) -> bool:
        """Whether an operation is the streaming unit's."""
        return self._sides.get(work_of(op)) == "fpga"

    # -- what a block finds ---------------------------------------------------------------------------------------

    def enter_pass(self, tokens: Sequence[int]) -> None:
        """Tokens of the last pass are known, and nothing of it is left."""
        begun = self._mapping.stream_of(0)
        for slot, b, token in zip(self._slots, self.lowerings, tokens, strict=True):
            b.token, before = token, slot - self._mapping.slots
            free = begun.parts if before < 0 else (Part(0, begun.parts[0].stop, f"embed.sent@{before}"),)
            b.results["previous"] = Result(b.sram["x"], free)

    def enter_layer(self, stream: str) -> None:
        """The residual stream, as the layer before or the embeddings have left it."""
        embedded = self._mapping.workload.embeddings
        if self.parks:
            self._find_parked(stream, "x", "x")
            begun = tuple(part.token for part in self._mapping.stream_of(0).parts)
            self._before = (*begun, *(self._all("embed.sent") if embedded else ()))
            return
        for slot, b in zip(self._slots, self.lowerings, strict=True):
            b.results[stream] = self._mapping.stream_of(slot, embedded=embedded)

    def enter_attention(self, qkv: ops.OpNode, results: Sequence[Result | None]) -> None:
        """Queries, keys and values as the projection has left them."""
        for slot, b, result in zip(self._slots, self.lowerings, results, strict=True):
            b.layouts = {**self._mapping.layouts, **self._mapping.cache_of(self._group[slot].sequence)}
            if result is not None:
                b.results[qkv.name] = result
        if self.parks:
            self._find_parked(qkv.name, _short(qkv), "qkv")
            self._before = self._all(f"{_short(qkv)}.sent")

    def enter_rest(self, before: Sequence[ops.OpNode], attention: Sequence[ops.OpNode]) -> None:
        """The residual stream, what attention gives and, with a parallel residual, its norm, too."""
        values, streamed, mapping = attention[-1], self.streams(attention[0]), self._mapping
        if self.parks:
            self._find_parked(before[0].inputs[0], "x", "x")
            if mapping.workload.model.parallel_residual:
                self._find_parked(before[0].name, _short(before[0]), "norm")
            if not streamed:
                self._find_parked(values.name, _short(values), "values")
            self._before = self._all(f"{_short(before[-1] if streamed else values)}.sent")
        else:
            for b in self.lowerings:
                mapping.enter_rest(b, before, values)
                if streamed:
                    del b.results[values.name]
                    b.freed = {}
        if streamed:
            attended = mapping.heads.heads * mapping.heads.d_head
            self._remote[values.name] = _Remote(
                mapping.stream["attention.out"], attended, mapping.sram["values"], ("attention.done",), values
            )

    def enter_head(self, stream: str) -> None:
        """The residual stream behind the last layer."""
        self._find_parked(stream, "x", "x")
        self._before = self._all("x")

    def _all(self, token: str) -> tuple[str, ...]:
        """Tokens of this name, of the whole group."""
        return tuple(f"{token}@{slot}" for slot in range(len(self._group)))

    def _find_parked(self, name: str, parked: str, home: str) -> None:
        """What an earlier block has parked; `_before` says that it is there."""
        self._remote[name] = self._vectors(f"park.{parked}", self._mapping.sram[home])

    def _park(self, op: ops.OpNode) -> _Remote:
        """What a stage parks for a later one of this block; a result is parked at the place where it was in the SRAM."""
        return self._vectors(f"park.{_short(op)}", self._homes[op.name], f"{_short(op)}.sent")

    def _vectors(self, place: str, home: int, *ready: str) -> _Remote:
        stream = self._mapping.stream
        return _Remote(stream[place], stream.length(place) // self._mapping.together, home, ready)

    # -- stages ---------------------------------------------------------------------------------------------------

    def run(self, work: Sequence[ops.OpNode], kept: Sequence[ops.OpNode] = (), places: _Places | None = None) -> None:
        """Lower operations.

        Args:
            work: in their order.
            kept: those whose results later blocks need. Where tokens take turns, they are parked.
            places: of these, what goes to a certain place in the buffer of the unit in any case, and the token that says so.
        """
        stages = self._stages(work)
        left = {op.name: op for op in kept}
        for number, (own, product) in enumerate(stages):
            later = {name for each, after in stages[number + 1 :] for op in (*each, *after) for name in op.inputs}
            last = number == len(stages) - 1
            sent = [op for op in own if op.name in later or op.name in left]
            for op in sent:
                left.pop(op.name, None)
            sent += left.values() if last else ()
            for wave in self._waves():
                self._lower(number, own, wave)
                for b in wave:
                    self._leave(number, b, sent, places or {}, product)
            if self.parks:
                self._remote |= {op.name: self._park(op) for op in sent if op.name in later}
            for op in product:
                self._multiply(op)

    def _stages(self, work: Sequence[ops.OpNode]) -> list[tuple[list[ops.OpNode], list[ops.Linear]]]:
        """Operations of channels and ASIC, each time with the product of the streaming unit that follows; none at the end."""
        stages: list[tuple[list[ops.OpNode], list[ops.Linear]]] = [([], [])]
        for op in work:
            if isinstance(op, ops.Linear) and self.streams(op):
                stages[-1][1].append(op)
                stages.append(([], []))
            else:
                stages[-1][0].append(op)
        return stages

    def _waves(self) -> list[list[SlotLowering]]:
        n = self._mapping.slots
        return [self.lowerings[start : start + n] for start in range(0, len(self.lowerings), n)]

    def _lower(self, stage: int, own: Sequence[ops.OpNode], wave: list[SlotLowering]) -> None:
        together = replace(self._together, lowerings=wave)
        for number, op in enumerate(own):
            for b in wave:
                for name in op.inputs:
                    self._fetch(stage, b, name)
            if isinstance(op, ops.CacheWrite):  # attention goes as a whole
                scores, softmax, values = own[number + 1 : number + 4]
                assert isinstance(scores, ops.Scores)
                assert isinstance(softmax, ops.Softmax)
                assert isinstance(values, ops.Values)
                lower_attention_together(wave, op, scores, softmax, values)
            elif not isinstance(op, ops.Scores | ops.Softmax | ops.Values):
                together.lower(op)

    def _leave(
        self,
        stage: int,
        b: SlotLowering,
        sent: Sequence[ops.OpNode],
        places: _Places,
        product: Sequence[ops.Linear],
    ) -> None:
        """What is needed later goes to the buffer of the unit, if it must; then the place in the SRAM is free."""
        tokens: list[str] = []
        for op in sent:
            self._fetch(stage, b, op.name)
            if op.name in places:
                place, token = places[op.name]
            elif self.parks:
                place, token = f"park.{_short(op)}", f"{_short(op)}.sent"
                self._homes[op.name] = b.results[op.name].sram - self._mapping.shift(self._slot_of(b))
            else:
                continue
            self._send(b, op.name, place, token)
            tokens.append(token)
        for op in product:
            self._fetch(stage, b, op.inputs[0])
            self._send(b, op.inputs[0], f"{op.kind}.in", f"{_short(op)}.in")
            tokens.append(f"{_short(op)}.in")
        if self.parks:
            if not tokens:
                tokens += list(b.results.values())[-1].tokens()
            self._left[self._slot_of(b) % self._mapping.slots] = owned(b)(tuple(tokens))
            b.results.clear()

    def _slot_of(self, b: SlotLowering) -> int:
        """Which token of the group it lowers."""
        return self._slots[next(k for k, each in enumerate(self.lowerings) if each is b)]

    # -- the streaming unit ---------------------------------------------------------------------------------------

    def _send(self, b: SlotLowering, name: str, place: str, token: str) -> None:
        """A result of a token over the link, next to those of the other tokens."""
        result, stream = b.results[name], self._mapping.stream
        width = stream.length(place) // self._tokens_at(place)
        index = b.builder.op("link", f"{name}.in")
        transfer = Transfer(width, result.sram, stream[place] + self._slot_of(b) * width)
        b.builder.unit(LINK_IN, index, (transfer,), result.tokens(), (token,))

    def _tokens_at(self, place: str) -> int:
        """Vectors that there is space for."""
        work = place.partition(".")[0]
        return self._mapping.together if work == "park" else self._mapping.streamed_tokens(work)

    def _fetch(self, stage: int, b: SlotLowering, name: str) -> None:
        """A result from the buffer of the unit, if it is not in the SRAM, and its bias."""
        if name in b.results or name not in self._remote:
            return
        remote, slot = self._remote[name], self._slot_of(b)
        short = name.partition(".")[2] or name
        target, token = self._mapping.shift(slot) + remote.home, f"{short}.back{stage}"
        free: tuple[str, ...] = (b.freed[short],) if short in b.freed else ()
        if self.parks and (stage, slot) not in self._fetched:
            free += self._left.get(slot % self._mapping.slots, self._before)
        self._fetched.add((stage, slot))
        index = b.builder.op("link", f"{name}.out" if remote.of else f"h0.park.{short}")
        transfer = Transfer(remote.width, remote.base + slot * remote.width, target, back=True)
        b.builder.unit(LINK_OUT, index, (transfer,), (*remote.ready, *free), (token,))
        if isinstance(remote.of, ops.Linear) and remote.of.bias:
            add = Compute("add", remote.width, (target,), target, f"{short}.bias")
            b.builder.asic(b.builder.op("bias", f"{name}.0"), (add,), (token,), (f"{short}.biased{stage}",))
            token = f"{short}.biased{stage}"
        b.results[name] = Result(target, (Part(0, remote.width, token),))
        if remote.of:
            b.places[name] = target

    def _multiply(self, op: ops.Linear) -> None:
        """A product of all tokens, which reads its weights once."""
        mapping, name, tokens = self._mapping, _short(op), len(self._slots)
        place, done = mapping.stream[f"{op.kind}.out"], f"{name}.done@all"
        region = mapping.linear_region(op.d_in, op.d_out, tokens)
        kernel = Kernel(
            "linear", region, (op.d_in, op.d_out, mapping.words, tokens), mapping.stream[f"{op.kind}.in"], place, name
        )
        index = self.shared.op(op.kind, op.name)
        self.shared.unit(FPGA, index, (kernel,), self._all(f"{name}.in"), (done,))
        self._remote[op.name] = _Remote(place, op.d_out, mapping.sram[name], (done,), op)

    def attend(self, qkv: ops.OpNode, attention: Sequence[ops.OpNode]) -> None:
        """Attention of all tokens: those of a sequence together, as many as a kernel takes, one sequence after the other."""
        mapping = self._mapping
        names = {op.kind: op.name for op in attention} | {"attention": attention[-1].name}
        start = 0
        for sequence, each in groupby(self._group, key=lambda token: token.sequence):
            tokens = list(each)
            for first in range(0, len(tokens), mapping.queries):
                part = tokens[first : first + mapping.queries]
                slots = range(start + first, start + first + len(part))
                ready = tuple(f"{_short(qkv)}.sent@{slot}" for slot in slots)
                kernels = list(
                    mapping.attention_kernels(
                        part[-1].context, len(part), slots.start, f"kv{sequence}" if sequence else "kv"
                    )
                )
                for number, (kind, kernel) in enumerate(kernels):
                    done = tuple(f"attention.done@{slot}" for slot in slots)
                    if number < len(kernels) - 1:
                        done = (f"attention.{kernel.function}@{slots.start}",)
                    index = self.shared.op(kind, names[kind])
                    self.shared.unit(FPGA, index, (kernel,), ready, done)
                    ready = done
            start += len(tokens)


def _short(op: ops.OpNode) -> str:
    """Name within a layer."""
    return op.name.partition(".")[2] or op.name


__all__ = ["HybridGroupMapping"]
