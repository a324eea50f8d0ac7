"""onnxruntime or OpenVINO behind the line protocol of `rust/src/lib.rs`:

`serve.py ENGINE MODEL.onnx CASES`, ENGINE one of onnxruntime, openvino, openvino-bf16.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np


def onnxruntime(model):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"input_ids": ids})[0]


def openvino(model, precision="f32"):
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # The parent has chosen the core.
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda ids: request.infer([ids], share_inputs=True, share_outputs=True)[0]


ENGINES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": lambda model: openvino(model, "bf16"),
}


def main():
    engine, model, cases = sys.argv[1:]
    cases = json.loads(Path(cases).read_text())
    cases = {name: np.array(batch, np.int64) for name, batch in cases.items()}
    embed = ENGINES[engine](model)
    print("READY", flush=True)
    for line in sys.stdin:
        request, name = line.split()
        start = time.perf_counter_ns()
        embedding = embed(cases[name])
        elapsed = time.perf_counter_ns() - start
        if request == "RUN":
            print(elapsed / 1e6, flush=True)
        else:
            print(json.dumps(embedding.ravel().tolist()), flush=True)


if __name__ == "__main__":
    main()
