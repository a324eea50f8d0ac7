"""The ONNX files of the peers: f32, fused f32, dynamic int8, static QDQ int8."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers import optimizer

import graph

HERE = Path(__file__).parent


class Sentences(CalibrationDataReader):
    """Calibration batches of one sentence, as token ids."""

    def __init__(self, sentences):
        self.batches = ({"input_ids": np.array([ids], np.int64)} for ids in sentences)

    def get_next(self):
        return next(self.batches, None)


def _static(f32: Path, target: Path, sentences, symmetric: bool):
    """Per-channel int8 weights, activations by their extremes, MatMul only.

    OpenVINO runs symmetric i8 activations clearly faster than asymmetric u8 ones, which are more
    accurate: both are compared.
    """
    quantize_static(
        f32,
        target,
        Sentences(sentences),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=False,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Attention's products of two activations stay f32, as in the dynamic files.
        extra_options={"MatMulConstBOnly": True, "ActivationSymmetric": symmetric},
    )


def prepare(model_dir: Path, cache: Path, sentences) -> dict[str, Path]:
    """Writes what is missing under `cache` and returns the files by name.

    `sentences` are the calibration texts' ids. The names are `f32` as built, `fused` by
    onnxruntime's transformer optimizer; in int8 `dynamic`, `fused_dynamic`, `static` and
    `static_asymmetric`.
    """
    key = hashlib.sha256(Path(graph.__file__).read_bytes())
    for part in (Path(__file__), model_dir / "model.safetensors", HERE / "requirements.txt"):
        key.update(part.read_bytes())
    key.update(repr(sentences).encode())
    folder = cache / f"onnx-{key.hexdigest()[:12]}"
    names = ["f32", "fused", "dynamic", "fused_dynamic", "static", "static_asymmetric"]
    files = {name: folder / f"{name}.onnx" for name in names}
    if all(file.exists() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # Both tools advise a pre-processing that gains nothing here.

    f32 = graph.bert(model_dir)
    onnx.save(f32, files["f32"])
    # Zero heads and size: read from the graph.
    fused = optimizer.optimize_model(
        str(files["f32"]), model_type="bert", num_heads=0, hidden_size=0, opt_level=0
    )
    fusions = fused.get_fused_operator_statistics()
    if not fusions["Attention"] or not fusions["SkipLayerNormalization"]:
        raise SystemExit(f"error: onnxruntime's optimizer did not fuse the graph: {fusions}")
    fused.save_model_to_file(str(files["fused"]))
    for source, target in (("f32", "dynamic"), ("fused", "fused_dynamic")):
        quantize_dynamic(
            files[source],
            files[target],
            per_channel=True,
            reduce_range=False,
            weight_type=QuantType.QInt8,
        )
    _static(files["f32"], files["static"], sentences, symmetric=True)
    _static(files["f32"], files["static_asymmetric"], sentences, symmetric=False)
    logging.disable(logging.NOTSET)
    return files
