"""What the integers of a quantized program come to: its operators in double precision between exact integers."""

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers quantized_decomposed)
import torchao  # noqa: F401  (registers torchao.*)


class Exact(torch.fx.Interpreter):
    """Integers stay integers, floats are doubles: sums of products of 16 bits are exact up to 2^53."""

    def fetch_attr(self, target):
        value = super().fetch_attr(target)
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def placeholder(self, target, args, kwargs):
        value = super().placeholder(target, args, kwargs)
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def call_function(self, target, args, kwargs):
        name = str(target)
        known = {
            "quantized_decomposed.quantize_per_tensor.default": quantize,
            "quantized_decomposed.dequantize_per_tensor.default": dequantize,
            "quantized_decomposed.dequantize_per_channel.default": dequantize_channels,
            "torchao.dequantize_affine.default": dequantize_blocks,
        }
        if name in known:
            return known[name](*args)
        assert "quantize" not in name, name
        return super().call_function(target, args, kwargs)


def quantize(x, scale, zero, low, high, dtype):
    # The program's scale is a float32, which its reciprocal multiplies in float32; here it divides.
    return torch.clamp(torch.round(x / scale) + zero, low, high).long()


def dequantize(q, scale, zero, low, high, dtype):
    return (q.double() - zero) * scale


def dequantize_channels(q, scales, zeros, axis, low, high, dtype):
    shape = [-1 if d == axis else 1 for d in range(q.dim())]
    zeros = torch.zeros_like(scales) if zeros is None else zeros
    return (q.double() - zeros.double().reshape(shape)) * scales.double().reshape(shape)


def dequantize_blocks(q, block, scales, zeros, dtype, low=None, high=None, out=None):
    counts = [n // b for n, b in zip(q.shape, block)]
    wide = scales.double().reshape(counts)
    for d, b in enumerate(block):
        wide = wide.repeat_interleave(b, d)
    return q.double() * wide


def run(pt2, inputs):
    """Outputs of a quantized program as doubles, and the step of each that is dequantized (None: it is not)."""
    module = torch.export.load(pt2).module()
    outputs = Exact(module).run(*(torch.from_numpy(x) for x in inputs))
    (returned,) = [n for n in module.graph.nodes if n.op == "output"]
    nodes = returned.args[0]
    nodes = nodes if isinstance(nodes, (list, tuple)) else [nodes]
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    steps = [n.args[1] if "dequantize_per_tensor" in str(n.target) else None for n in nodes]
    return [np.asarray(x.detach()) for x in outputs], steps
