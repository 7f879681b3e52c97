# SPDX-License-Identifier: Apache-2.0
"""Products against numpy."""

import gc
import threading

import numpy as np
import pytest

from metal_marlin import MarlinError, MarlinLinear, MetalQuantizedLinear

from common import EXL3, FIXTURES


def normals(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distance(a, b):
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


def test_plain():
    w, x = normals(37, 130), normals(5, 130, seed=2)
    linear = MarlinLinear(w)
    assert (linear.out_features, linear.in_features, linear.bits, linear.nbytes) == (37, 130, 32, w.nbytes)
    assert not linear.quantized and not linear.has_bias
    assert np.array_equal(linear.weight(), w)
    y = linear(x)
    assert y.dtype == np.float32 and y.shape == (5, 37)
    assert distance(y, x.astype(np.float64) @ w.T) < 1e-6


def test_shapes_of_x():
    w = normals(6, 8)
    linear = MarlinLinear(w, threads=1)
    x = normals(2, 3, 8, seed=3)
    assert linear(x).shape == (2, 3, 6)
    assert np.array_equal(linear(x)[1, 2], linear(x[1, 2]))
    assert linear(np.zeros((0, 8), np.float32)).shape == (0, 6)
    strided = normals(4, 16, seed=4)[:, ::2]
    assert np.array_equal(linear(strided), linear(strided.copy()))
    assert np.array_equal(linear(x.astype(np.float64)), linear(x))


def test_an_array_lives_as_long_as_its_linear():
    linear = MarlinLinear(normals(512, 512).copy(), threads=1)
    gc.collect()
    other = [np.full((512, 512), np.nan, np.float32) for _ in range(4)]
    assert np.array_equal(linear.weight(), normals(512, 512))
    del other


@pytest.mark.parametrize("bits, most", [(2, 0.09), (3, 0.025), (4, 0.008), (5, 0.002), (6, 0.0006), (8, 0.0002)])
def test_quantized(bits, most):
    w, x = normals(256, 128), normals(40, 128, seed=2)
    linear = MetalQuantizedLinear(w, bits, threads=2)
    restored = linear.weight()
    error = distance(restored, w) ** 2
    assert 0 < error < most
    assert linear.error == pytest.approx(error, rel=0.05)
    assert linear.bits == bits and linear.quantized
    assert linear.nbytes < w.nbytes * bits / 32 * 1.1 + 4 * (256 + 128)
    assert distance(linear(x), x.astype(np.float64) @ restored.T) < 0.015
    exact = MetalQuantizedLinear(w, bits, threads=1, exact=True)
    assert np.array_equal(exact.weight(), restored)
    assert distance(exact(x), x.astype(np.float64) @ restored.T) < 1e-5


def test_calibration_helps_and_has_two_spellings():
    w = normals(128, 128)
    x = normals(300, 12, seed=2) @ normals(12, 128, seed=3)
    wanted = x.astype(np.float64) @ w.T
    blind = MetalQuantizedLinear(w, 2, exact=True)
    seeing = MetalQuantizedLinear(w, 2, inputs=x, exact=True)
    assert distance(seeing(x), wanted) < 0.7 * distance(blind(x), wanted)
    rows = x.astype(np.float64)
    same = MetalQuantizedLinear(w, 2, hessian=(rows.T @ rows / len(rows)).astype(np.float32), exact=True)
    assert np.array_equal(same.weight(), seeing.weight())


def test_what_is_refused():
    w = normals(16, 16)
    with pytest.raises(MarlinError, match="2 to 6 and 8 are possible") as why:
        MetalQuantizedLinear(w, 7)
    assert why.value.status == "unsupported"
    with pytest.raises(MarlinError, match="is not finite"):
        MetalQuantizedLinear(np.full((16, 16), np.nan, np.float32))
    with pytest.raises(MarlinError, match="leave it out"):
        MetalQuantizedLinear(w, 8, inputs=w)
    with pytest.raises(ValueError, match="give one of them"):
        MetalQuantizedLinear(w, 4, inputs=w, hessian=w)
    with pytest.raises(ValueError, match=r"\[16, 16\] is needed"):
        MetalQuantizedLinear(w, 4, hessian=normals(8, 8))
    with pytest.raises(ValueError, match="rows of 16"):
        MetalQuantizedLinear(w, 4, inputs=normals(3, 8))
    with pytest.raises(ValueError, match="a matrix"):
        MarlinLinear(normals(8))
    with pytest.raises(TypeError, match="int64"):
        MarlinLinear(np.zeros((4, 4), np.int64))
    with pytest.raises(ValueError, match="must be 16"):
        MarlinLinear(w)(normals(3, 15))
    with pytest.raises(MarlinError, match="threads is -1"):
        MarlinLinear(w, threads=-1)


def test_closed():
    with MarlinLinear(normals(4, 4)) as linear:
        pass
    with pytest.raises(ValueError, match="closed"):
        linear(normals(1, 4))
    linear.close()


def test_directories():
    name = "model.layers.0.self_attn.q_proj"
    plain = MarlinLinear.load(FIXTURES / "qwen2", name)
    x = normals(3, plain.in_features)
    assert plain.has_bias and not plain.quantized
    bias = plain(np.zeros((1, plain.in_features), np.float32))
    assert np.abs(bias).max() > 0
    assert distance(plain(x), x.astype(np.float64) @ plain.weight().T + bias) < 1e-5
    tiles = MetalQuantizedLinear.load(EXL3 / "dense-mul1", name + ".weight", exact=True)
    x = normals(3, tiles.in_features)
    assert tiles.bits == 3 and tiles.error == 0
    assert distance(tiles(x), x.astype(np.float64) @ tiles.weight().T) < 1e-5
    with pytest.raises(MarlinError, match="is not quantized"):
        MetalQuantizedLinear.load(FIXTURES / "qwen2", name)
    with pytest.raises(MarlinError, match="no linear layer is called 'nobody'") as why:
        MarlinLinear.load(FIXTURES / "qwen2", "nobody")
    assert why.value.status == "not_found"


def test_threads_take_turns():
    linear = MetalQuantizedLinear(normals(128, 128), 4, threads=2)
    x = normals(2, 128, seed=2)
    wanted, wrong = linear(x), []

    def work():
        for _ in range(20):
            if not np.array_equal(linear(x), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
