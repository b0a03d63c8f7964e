"""Engines that run a network: each function makes what it needs in a folder and returns a call without arguments."""

import torch

from networks import SHAPE, network


def inputs(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def exported(folder):
    return torch.export.load(folder / "model.pt2")


def quantizer(observer):
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    config = get_symmetric_quantization_config(is_per_channel=True)
    if observer == "min_max":
        import dataclasses

        from torchao.quantization.pt2e import MinMaxObserver

        spec = config.input_activation
        watch = MinMaxObserver.with_args(eps=2**-12)
        spec = dataclasses.replace(spec, observer_or_fake_quant_ctr=watch)
        config = dataclasses.replace(config, input_activation=spec, output_activation=spec)
    return XNNPACKQuantizer().set_global(config)


def prepared(folder, observer):
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    return prepare_pt2e(exported(folder).module(), quantizer(observer))


def converted(folder):
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    model = prepared(folder, "histogram")
    for seed in range(2):
        model(inputs(seed))
    return convert_pt2e(model)


def calling(model):
    x = inputs(0)

    def call():
        with torch.no_grad():
            model(x)

    return call


def torch_f32(folder, threads):
    return calling(exported(folder).module())


def torchao_histogram(folder, threads):
    return calling(prepared(folder, "histogram"))


def torchao_min_max(folder, threads):
    return calling(prepared(folder, "min_max"))


def torchao_int8(folder, threads):
    return calling(converted(folder))


def onnx(folder, name):
    path = folder / "model.onnx"
    if not path.exists():
        torch.onnx.export(network(name), (inputs(0),), str(path), dynamo=False, opset_version=17, input_names=["x"])
    return path


def onnx_session(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: inputs(0).numpy()}
    return lambda: session.run(None, feed)


def onnx_f32(folder, threads):
    return onnx_session(onnx(folder, (folder / "name").read_text()), threads)


def onnx_int8(folder, threads):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": inputs(seed).numpy()} for seed in range(2)])

        def get_next(self):
            return next(self.left, None)

    path = folder / "int8.onnx"
    if not path.exists():
        quant_pre_process(str(onnx(folder, (folder / "name").read_text())), str(folder / "shaped.onnx"))
        quantize_static(str(folder / "shaped.onnx"), str(path), Samples(), quant_format=QuantFormat.QDQ, per_channel=True)
    return onnx_session(path, threads)


def executorch(path, program, threads):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib

    if not path.exists():
        lowered = to_edge_transform_and_lower(program(), partitioner=[XnnpackPartitioner()]).to_executorch()
        path.write_bytes(lowered.buffer)
    # Its pool has as many threads as there are processors, whatever the affinity says.
    portable_lib._unsafe_reset_threadpool(threads)
    module, x = portable_lib._load_for_executorch(str(path)), [inputs(0)]
    return lambda: module.forward(x)


def xnnpack_f32(folder, threads):
    return executorch(folder / "f32.pte", lambda: exported(folder), threads)


def xnnpack_int8(folder, threads):
    return executorch(folder / "int8.pte", lambda: torch.export.export(converted(folder), (inputs(0),)), threads)


ENGINES = {
    f.__name__: f
    for f in [torch_f32, torchao_histogram, torchao_min_max, torchao_int8, onnx_f32, onnx_int8, xnnpack_f32, xnnpack_int8]
}
