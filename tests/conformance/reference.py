"""The same task in Python: a .pt2 and calibration data to a .pte, with torchao and ExecuTorch.

python reference.py MODEL.pt2 CALIB.npz OUT.pte [--dynamic] [--float]
Prints one JSON line: seconds of each stage, peak memory, bytes.
"""

import argparse
import json
import resource
import time
import warnings


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("out")
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--float", action="store_true", dest="plain")
    parser.add_argument("--samples", type=int, default=100)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    clock, seconds = time.perf_counter(), {}

    def lap(stage):
        nonlocal clock
        now = time.perf_counter()
        seconds[stage], clock = now - clock, now

    import numpy as np
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    lap("imports")
    exported = torch.export.load(arguments.model)
    inputs = inputs_of(torch, exported)
    lap("import")
    if not arguments.plain:
        quantizer = XNNPACKQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True, is_dynamic=arguments.dynamic)
        )
        net = prepare_pt2e(with_strides(torch, exported.module()), quantizer)
        lap("prepare")
        with np.load(arguments.calibration) as data, torch.no_grad():
            columns = [data[f"in{i}"][: arguments.samples] for i in range(len(inputs))]
            for call in zip(*columns):
                net(*(torch.from_numpy(np.array(x)) for x in call))
        lap("calibrate")
        net = convert_pt2e(net)
        lap("convert")
        exported = torch.export.export(net, inputs)
        lap("re-export")
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    lap("lower")
    with open(arguments.out, "wb") as file:
        file.write(program.buffer)
    lap("write")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak, "bytes": len(program.buffer)}))


def inputs_of(torch, exported):
    """Zeros in the shapes of the program's inputs."""
    nodes = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    values = [nodes[name] for name in exported.graph_signature.user_inputs]
    return tuple(torch.zeros([int(n) for n in value.shape], dtype=value.dtype) for value in values)


def with_strides(torch, net):
    """A max_pool2d without a written stride stops ExecuTorch's partitioner: writes it."""
    for node in net.graph.nodes:
        if node.target == torch.ops.aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
    net.recompile()
    return net


if __name__ == "__main__":
    main()
