from __future__ import annotations

from fractions import Fraction
from math import inf, isfinite, isnan, nan

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pimsim.errors import ConfigError, UnknownName
from pimsim.functional.numerics import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    FORMATS,
    INT8,
    FixedSpec,
    FloatSpec,
    MacArithmetic,
    dot_bound,
    fixed_spec,
    float_spec,
    format_spec,
    mac_arithmetic,
    tree_sum,
)

NARROW = (BFLOAT16, FLOAT16, FLOAT32)

# ------------------------------------------------------------------------------------------------------------ oracles


def round_exactly(value: Fraction, spec: FloatSpec) -> float:
    """The nearest number of the format, ties to even, from the definition."""
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()  # of 2, or one too large
    exponent = max(exponent - (size < Fraction(2) ** exponent), spec.min_exponent)
    unit = Fraction(2) ** (exponent - spec.precision + 1)
    rounded = round(size / unit) * unit  # Fraction rounds ties to even
    result = inf if rounded > Fraction(spec.largest) else float(rounded)
    return result if value > 0 else -result


def scalar(operation, a: float, b: float, spec: FloatSpec) -> float:
    if isfinite(a) and isfinite(b):
        return round_exactly(operation(Fraction(a), Fraction(b)), spec)
    with np.errstate(all="ignore"):
        return float(operation(np.float64(a), np.float64(b)))


def scalar_mac(acc: float, weights, vector, spec: FloatSpec, tree: bool) -> float:
    """One accumulator, one Python number at a time."""

    def add(a: float, b: float) -> float:
        return scalar(lambda x, y: x + y, a, b, spec)

    for w, x in zip(weights.tolist(), vector.tolist(), strict=True):
        level = [scalar(lambda a, b: a * b, a, b, spec) for a, b in zip(w, x, strict=True)]
        while tree and len(level) > 1:
            tail = level[-1:] if len(level) % 2 else []
            level = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + tail
        for product in level:
            acc = add(acc, product)
    return acc


def patterns(spec: FloatSpec, shape) -> st.SearchStrategy:
    """Arrays of all bit patterns alike: subnormals, infinities and NaN among them."""
    return hnp.arrays(np.dtype(f"u{spec.bits // 8}"), shape).map(lambda bits: bits.view(spec.dtype))


def moderate(spec: FloatSpec, shape) -> st.SearchStrategy:
    """Arrays whose products neither overflow nor underflow often, with many ties and cancellations."""
    element = st.builds(
        lambda m, e: m * 2.0**e, st.integers(-(2**spec.precision), 2**spec.precision), st.integers(-8, 0)
    )
    return hnp.arrays(np.float32, shape, elements=element.map(lambda v: float(spec.round_to(np.float64(v)))))


# ------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("spec", NARROW, ids=lambda s: s.name)
def test_rounding_is_exact_from_any_float64(spec: FloatSpec) -> None:
    @given(st.floats(width=64, allow_nan=False, allow_infinity=False))
    @example(1.0 + 2.0**-8 + 2.0**-40)  # just above a tie of bfloat16: rounding to float32 first makes it a tie
    @example(1.0 + 2.0**-11 + 2.0**-40)
    @example(2.0**-133 * 1.5)
    @example(2.0**-25)
    @example(65520.0)
    @example(65519.99)
    @example(1e300)
    @example(-1e-300)
    def check(value: float) -> None:
        assert float(spec.round_to(np.float64(value))) == round_exactly(Fraction(value), spec)

    check()


@pytest.mark.parametrize("spec", NARROW, ids=lambda s: s.name)
def test_rounding_is_exact_from_float32(spec: FloatSpec) -> None:
    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def check(value: float) -> None:
        rounded = spec.round_to(np.float32(value))
        assert rounded.dtype == np.float32
        assert float(rounded) == round_exactly(Fraction(value), spec)

    check()


@pytest.mark.parametrize("spec", [BFLOAT16, FLOAT16], ids=lambda s: s.name)
def test_every_storage_pattern_survives_decoding_and_encoding(spec: FloatSpec) -> None:
    storage = np.arange(65536, dtype=np.uint16).view(spec.dtype)
    again = spec.encode(spec.decode(storage))
    same = again.view(np.uint16) == storage.view(np.uint16)
    assert np.all(same | np.isnan(spec.decode(storage)))
    assert np.all(np.isnan(spec.decode(again)) == np.isnan(spec.decode(storage)))


@pytest.mark.parametrize("spec", [*NARROW, FLOAT64], ids=lambda s: s.name)
def test_constants_of_a_format_agree_with_the_type(spec: FloatSpec) -> None:
    info = ml_dtypes.finfo(spec.dtype)
    assert spec.unit_roundoff == float(info.eps) / 2
    assert spec.smallest_normal == float(info.smallest_normal)
    assert spec.smallest_subnormal == float(info.smallest_subnormal)
    assert spec.largest == float(info.max)
    assert spec.bits == spec.dtype.itemsize * 8


@pytest.mark.parametrize("spec", NARROW, ids=lambda s: s.name)
def test_floats_overflow_to_infinity_and_keep_nan_and_zero_signs(spec: FloatSpec) -> None:
    given_values = np.array([inf, -inf, nan, 1e300, -1e300, 0.0, -0.0])
    found = spec.round_to(given_values)
    np.testing.assert_array_equal(found, [inf, -inf, nan, inf, -inf, 0.0, 0.0])
    assert np.signbit(found).tolist() == np.signbit(given_values).tolist()
    assert spec.encode(given_values).dtype == spec.dtype


def test_round_to_keeps_the_float_type() -> None:
    for dtype in (np.float32, np.float64):
        assert BFLOAT16.round_to(np.ones(3, dtype)).dtype == dtype
        assert INT8.round_to(np.ones(3, dtype)).dtype == dtype
    assert BFLOAT16.round_to([1, 2]).dtype == np.float32
    assert FLOAT64.round_to(np.ones(1, np.float32)).dtype == np.float64


def test_int8_scales() -> None:
    values = np.array([[0.5, -1.0], [100.0, 25.4], [0.0, 0.0], [inf, 2.0], [nan, -4.0]], np.float32)
    storage, scale = INT8.quantize(values, axis=1)
    np.testing.assert_allclose(scale[:, 0], [1 / 127, 100 / 127, 1, 2 / 127, 4 / 127], rtol=1e-7)
    assert storage.tolist() == [[64, -127], [127, 32], [0, 0], [127, 127], [0, -127]]
    assert storage.dtype == np.int8
    assert INT8.quantize(values[:2])[1].shape == (1, 1)
    assert INT8.encode([1.5, 2.5, 200.0, -200.0, nan]).tolist() == [2, 2, 127, -127, 0]
    assert INT8.decode(np.array([-127, 3], np.int8), 0.5).tolist() == [-63.5, 1.5]


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_int8_rounds_within_its_stated_error(values: np.ndarray) -> None:
    for axis in (None, 0, 1, -1):
        scale = INT8.scale(values, axis)
        error = np.abs(INT8.round_to(values, scale).astype(np.float64) - values)
        largest = np.broadcast_to(np.max(np.abs(values), axis=axis, keepdims=True), values.shape)
        assert all(e <= INT8.operand_error(float(m)) for e, m in zip(error.flat, largest.flat, strict=True))


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_scales_of_other_formats_are_one(axis: int | None) -> None:
    values = np.zeros((2, 3, 4))
    assert BFLOAT16.scale(values, axis).shape == INT8.scale(values, axis).shape
    assert np.all(BFLOAT16.scale(values, axis) == 1)
    assert np.all(FixedSpec(8, 4).scale(values, axis) == 1)


@given(
    st.integers(2, 32).flatmap(lambda b: st.tuples(st.just(b), st.integers(1, b))),
    st.sampled_from(["nearest", "truncate"]),
    st.sampled_from(["saturate", "wrap"]),
    st.floats(-1e12, 1e12),
)
@example((8, 4), "truncate", "wrap", 8.0)
@example((8, 4), "truncate", "wrap", -8.0625)
@example((32, 1), "nearest", "saturate", 1.0)
def test_fixed_point_against_integers(bits: tuple[int, int], rounding: str, overflow: str, value: float) -> None:
    spec = FixedSpec(*bits, rounding, overflow)
    exact = Fraction(value) * 2**spec.fraction_bits
    q = round(exact) if rounding == "nearest" else exact.numerator // exact.denominator
    low, high = spec.limits
    q = min(max(q, low), high) if overflow == "saturate" else (q - low) % 2**spec.bits + low
    assert int(spec.encode(value)) == q
    assert Fraction(float(spec.round_to(value))) == Fraction(q, 2**spec.fraction_bits)
    assert format_spec(spec.name) == spec


def test_fixed_point_edges() -> None:
    wrap, saturate = format_spec("fixed8_4_wrap"), format_spec("fixed8_4")
    assert wrap.round_to([inf, -inf, nan, 8.0, 1e300]).tolist()[:4] == [7.9375, -8.0, 0.0, -8.0]
    assert saturate.round_to([inf, -inf, nan, 8.0, 1e300]).tolist() == [7.9375, -8.0, 0.0, 7.9375, 7.9375]
    assert wrap.dtype == np.int8
    assert format_spec("fixed24_8").dtype == np.int32
    assert saturate.operand_error(1.0) == 2.0**-5
    assert wrap.operand_error(1.0) == 2.0**-4
    assert wrap.operand_error(9.0) == inf
    assert saturate.operand_error(9.0) == 9.0 - 7.9375


def test_names_and_their_errors() -> None:
    assert all(format_spec(name).name == name for name in FORMATS)
    assert format_spec("fixed16_4_nearest_wrap") == FixedSpec(16, 4, "nearest", "wrap")
    with pytest.raises(UnknownName, match=r"^format must be one of bfloat16, .*not 'bfloat'; did you mean 'bfloat16'"):
        format_spec("bfloat")
    with pytest.raises(
        UnknownName, match=r"^floating-point format must be one of bfloat16, float16, float32, float64,"
    ):
        float_spec("int8")
    with pytest.raises(ConfigError, match=r"^fixed point must have 2 to 32 bits, not 64"):
        format_spec("fixed64_4")
    with pytest.raises(ConfigError, match=r"^integer bits must be 0 to 8, not 9"):
        FixedSpec(8, 9)


def test_no_integer_bits_and_no_sign() -> None:
    half, pixel = format_spec("fixed16_0_wrap"), format_spec("ufixed8_0_wrap")
    assert (half.name, pixel.name, pixel.dtype) == ("fixed16_0_wrap", "ufixed8_0_wrap", np.uint8)
    np.testing.assert_array_equal(half.round_to([-0.5, 0.25, 0.5]), [-0.5, 0.25, -0.5])
    np.testing.assert_array_equal(pixel.round_to([0.0, 0.999, 1.0, -1 / 256]), [0.0, 255 / 256, 0.0, 255 / 256])
    with pytest.raises(UnknownName, match=r"^fixed-point format must be one of fixed<bits>_<integer bits>, ufixed"):
        fixed_spec("bfloat16")


# ---------------------------------------------------------------------------------------------------------- MAC units

COMBINATIONS = [
    (BFLOAT16, "float32"),
    (BFLOAT16, "bfloat16"),
    (BFLOAT16, "float16"),
    (FLOAT16, "float32"),
    (FLOAT16, "float16"),
    (FLOAT16, "bfloat16"),
    (FLOAT32, "float32"),
    (FLOAT32, "bfloat16"),
    (FLOAT32, "float16"),
]


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize(("spec", "accumulator"), COMBINATIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("values", [patterns, moderate])
def test_mac_equals_the_scalar_model_bit_for_bit(spec: FloatSpec, accumulator: str, tree: bool, values) -> None:
    target = float_spec(accumulator)
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    @np.errstate(invalid="ignore")  # the scalar model widens signalling NaNs
    def check(data: st.DataObject) -> None:
        banks, columns, lanes = data.draw(shapes)
        w = data.draw(values(spec, (banks, columns, lanes)))
        x = data.draw(values(spec, (1, columns, lanes)))
        acc = target.decode(
            data.draw(patterns(target, (banks,))) if values is patterns else np.zeros(banks, target.dtype)
        )
        found = MacArithmetic(spec, accumulator, tree).mac(acc, w, x)
        expected = [
            scalar_mac(float(acc[b]), w[b].astype(np.float64), x[0].astype(np.float64), target, tree)
            for b in range(banks)
        ]
        np.testing.assert_array_equal(found, np.float32(expected))
        assert found.dtype == np.float32

    check()


@pytest.mark.parametrize("name", ["int8", "fixed16_4", "fixed12_3_wrap"])
@given(data=st.data())
def test_integer_mac_is_exact_modulo_32_bits(name: str, data: st.DataObject) -> None:
    mac = mac_arithmetic(name)
    low, high = (-127, 127) if name == "int8" else mac.format.limits
    elements = st.integers(low, high)
    w = data.draw(hnp.arrays(mac.format.dtype, (2, 5, 7), elements=elements))
    x = data.draw(hnp.arrays(mac.format.dtype, (1, 5, 7), elements=elements))
    acc = data.draw(hnp.arrays(np.int32, (2,)))
    exact = acc.astype(object) + np.sum(w.astype(object) * x.astype(object), axis=(1, 2))
    wrapped = [(int(v) + 2**31) % 2**32 - 2**31 for v in exact]
    for tree in (True, False):
        found = mac_arithmetic(name, tree=tree).mac(acc, w, x)
        assert found.tolist() == wrapped
        assert found.dtype == np.int32


def test_order_of_additions_is_the_documented_one() -> None:
    ones = np.ones((1, 4), np.float32)
    w = np.float32([[2.0**24, 1.0, 1.0, -(2.0**24)]])
    assert mac_arithmetic("float32").mac(np.float32(0), w, ones) == 1.0  # (2^24 + 1 -> 2^24) + (1 - 2^24)
    assert mac_arithmetic("float32", tree=False).mac(np.float32(0), w, ones) == 0.0
    three = np.float32([[2.0**24, 1.0, 1.0]])
    assert mac_arithmetic("float32").mac(np.float32(-(2.0**24)), three, ones[:, :3]) == 0.0


def test_a_bfloat16_accumulator_stops_growing() -> None:
    w, x = np.ones((600, 1), np.float32), np.ones((600, 1), np.float32)
    assert mac_arithmetic("bfloat16", "bfloat16").mac(np.float32(0), w, x) == 256.0
    assert mac_arithmetic("bfloat16").mac(np.float32(0), w, x) == 600.0


def test_mac_shapes_and_broadcasting() -> None:
    mac = mac_arithmetic("bfloat16")
    rng = np.random.default_rng(1)
    w = BFLOAT16.round_to(rng.standard_normal((2, 3, 5, 16)).astype(np.float32))
    x = BFLOAT16.round_to(rng.standard_normal((2, 1, 5, 16)).astype(np.float32))
    whole = mac.mac(mac.zeros((2, 3)), w, x)
    assert whole.shape == (2, 3)
    parts = mac.mac(mac.mac(mac.zeros((2, 3)), w[..., :2, :], x[..., :2, :]), w[..., 2:, :], x[..., 2:, :])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole, mac.mac(mac.zeros((2, 3)), BFLOAT16.encode(w), BFLOAT16.encode(x)))
    assert whole[1, 2] == mac.mac(np.float32(0), w[1, 2], x[1, 0])
    np.testing.assert_array_equal(mac.mac(whole, w[..., :0, :], x[..., :0, :]), whole)
    assert mac.mac(np.float32(1), w[..., :1, :], x[..., :1, :]).shape == (2, 3)


def test_tree_sum_of_nothing_and_of_odd_lengths() -> None:
    assert tree_sum(np.zeros((0, 2)), lambda v: v).tolist() == [0.0, 0.0]
    assert tree_sum(np.arange(7.0), lambda v: v) == 21.0


def test_reading_an_accumulator() -> None:
    assert mac_arithmetic("bfloat16").read(np.float32([1.00390625, np.finfo(np.float32).max])).tolist() == [1.0, inf]
    assert mac_arithmetic("float32").read(np.float32([1.1])).tolist() == np.float32([1.1]).tolist()
    int8 = mac_arithmetic("int8").read(np.int32([3, -(2**31)]), scale=[0.5, 2.0**-31])
    assert int8.tolist() == [1.5, -1.0]
    assert int8.dtype == np.float32
    fixed = mac_arithmetic("fixed8_4")
    one_and_half = fixed.mac(np.int32(0), fixed.format.encode([[1.5, 7.0]]), fixed.format.encode([[1.0, 2.0]]))
    assert fixed.read(one_and_half) == 7.9375
    wrap = mac_arithmetic("fixed8_4_wrap")
    assert wrap.read(one_and_half) == 15.5 - 16
    assert mac_arithmetic("int8").read(np.int32([7])).tolist() == [7.0]


def test_unfit_accumulators_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"^accumulator must be one of float32, bfloat16, float16, int32, not 'int16'"
    ):
        MacArithmetic(BFLOAT16, "int16")
    with pytest.raises(ConfigError, match=r"^accumulator of int8 products must be int32, not 'float32'"):
        MacArithmetic(INT8, "float32")
    with pytest.raises(ConfigError, match=r"^accumulator of bfloat16 products must be float32, bfloat16, float16, not"):
        MacArithmetic(BFLOAT16, "int32")
    with pytest.raises(ConfigError, match=r"^operands of an int32 accumulator must have at most 16 bits, not 24"):
        mac_arithmetic("fixed24_8")
    with pytest.raises(ConfigError, match=r"^operands of a MAC unit must be one of bfloat16, float16, float32, not"):
        mac_arithmetic("float64")


# -------------------------------------------------------------------------------------------------------- error bound


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize(
    ("name", "accumulator"),
    [
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float32"),
        ("float16", "float16"),
        ("float32", "float32"),
        ("float32", "bfloat16"),
        ("int8", "int32"),
        ("fixed16_4", "int32"),
        ("fixed16_4_wrap", "int32"),
    ],
)
@given(seed=st.integers(0, 10_000), columns=st.integers(1, 40), lanes=st.integers(1, 17), size=st.floats(0.001, 1.5))
@settings(max_examples=30, deadline=None)
def test_dot_bound_holds(name, accumulator, tree, seed, columns, lanes, size) -> None:
    rng = np.random.default_rng(seed)
    mac = mac_arithmetic(name, accumulator, tree)
    w, x = rng.uniform(-size, size, (2, columns, lanes)), rng.uniform(-1, 1, (1, columns, lanes))
    (qw, sw), (qx, sx) = mac.format.quantize(w), mac.format.quantize(x)
    acc = mac.mac(mac.zeros((2,)), qw, qx)
    exact = np.sum(w * x, axis=(1, 2))
    n, most_w, most_x = columns * lanes, float(np.max(np.abs(w))), float(np.max(np.abs(x)))
    if isinstance(mac.format, FixedSpec):
        found = acc * mac.format.step**2
    else:
        found = acc.astype(np.float64) * float((sw * sx).item())
    bound = dot_bound(mac.format, mac.accumulator, n, most_w, most_x, lanes=lanes, tree=tree)
    assert np.all(np.abs(found - exact) <= bound)
    assert bound <= 3 * n * most_w * most_x or not isinstance(mac.format, FloatSpec) or accumulator != "float32"
    read = dot_bound(mac.format, mac.accumulator, n, most_w, most_x, lanes=lanes, tree=tree, read=True)
    assert np.all(np.abs(mac.read(acc, sw.item() * sx.item()) - exact) <= read)


def test_dot_bound_known_values() -> None:
    # exact products, 4 levels of the tree, 64 columns: k = 68; operands are within 2^-8 each
    bound = dot_bound(BFLOAT16, "float32", 1024, 1.0, 1.0)
    assert bound == pytest.approx(1024 * ((1 + 2.0**-8) ** 2 * (1 + 68 * 2.0**-24) - 1), rel=1e-6)
    assert dot_bound(FLOAT32, "float32", 16, 1.0, 1.0) == pytest.approx(16 * (2 + 6) * 2.0**-24, rel=1e-5)
    assert dot_bound(FLOAT16, "float16", 100, 100.0, 100.0) == inf
    assert dot_bound(INT8, "int32", 200_000, 1.0, 1.0) == inf
    assert not isnan(dot_bound(BFLOAT16, "float32", 1024, 0.0, 0.0))


# -------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("name", "accumulator"), [("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "int32")]
)
def test_speed_of_a_row_of_all_banks(benchmark, name: str, accumulator: str) -> None:
    rng = np.random.default_rng(0)
    mac = mac_arithmetic(name, accumulator)
    w, _ = mac.format.quantize(rng.standard_normal((8, 16, 64, 16)))
    x, _ = mac.format.quantize(rng.standard_normal((8, 1, 64, 16)))
    benchmark(mac.mac, mac.zeros((8, 16)), w, x)
