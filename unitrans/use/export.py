"""What ``unitrans export`` does: an image classifier or encoder for onnxruntime or torch.export."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unitrans.errors import ConfigError
from unitrans.models.images import ImageEncoder
from unitrans.ops.backends import preferred_backend
from unitrans.training.loading import encoder_of, load
from unitrans.training.runs import write_json
from unitrans.use.compare import TOLERANCE
from unitrans.use.whole import writing, written_whole

FORMATS = ("onnx", "torch-export")


class Exported(nn.Module):
    """Images as they are read to what the model says of them.

    Args:
        model: a classifier or an encoder of images.
        mean, std: of every channel, which the training data were normalised by.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [0, 1] -> logits [B, K] of a classifier, pooled rows [B, D] of an encoder."""
        images = (images - self.get_buffer("mean")) / self.get_buffer("std")
        head = getattr(self.model, "head", None)
        encoder: Any = encoder_of(self.model)
        if head is not None and not hasattr(head, "predict"):  # a classifier of another code base
            return cast(Tensor, self.model(pixel_values=images).logits)
        patches, plans = encoder.pack(images)
        if head is not None:
            return cast(Tensor, head.predict(encoder, {"patches": patches, "plans": plans}))
        return cast(Tensor, encoder.pool(encoder.features(patches, plans), plans))


def export(checkpoint: str, target: str, output: Path, *, encoder_only: bool = False) -> list[str]:
    """Writes a model of images for another runtime, and DIR/NAME.json with what its input and output mean.

    The batch is free; height and width are those the model was trained with. ONNX files hold standard operators only;
    files of torch.export call the core of this program where it is installed.

    Args:
        checkpoint: what `unitrans.load` takes.
        target: "onnx" or "torch-export".
        output: the file.
        encoder_only: the pooled rows of the encoder instead of a classifier's logits.

    Returns:
        Sentences about what was written.

    Raises:
        ConfigError: a model of texts or graphs, or a package that is missing.
    """
    if target not in FORMATS:
        raise ConfigError(f"--to {target}: expected one of {', '.join(FORMATS)}")
    beside = output.with_suffix(".json")
    for file in (output, beside):
        if file.exists():
            raise ConfigError(f"{file} is there already: name a file that is absent")
    if target == "onnx":
        _need("onnx", "onnxscript")
    model: Any = load(checkpoint)
    encoder: Any = encoder_of(model)
    if not isinstance(encoder, ImageEncoder):
        raise ConfigError(f"{checkpoint}: expected a model of images, got a {type(encoder).__name__}")
    predicts = hasattr(getattr(model, "head", None), "predict") and model.objective.name == "classification"
    plain = hasattr(model, "head") and not hasattr(model, "objective")
    reading = getattr(model.config, "reading", None) or {}
    channels = encoder.config.in_chans
    mean, std = reading.get("mean", [0.0] * channels), reading.get("std", [1.0] * channels)
    labelled = (predicts or plain) and not encoder_only
    wrapped = Exported(model if labelled else encoder, mean, std).eval()
    height, width = (side * encoder.config.patch_size for side in encoder.config.grid)
    example = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    result = "logits" if labelled else "vector"
    labels = getattr(model.config, "labels", None) or {}
    about = {
        "input": {"name": "images", "shape": ["batch", channels, height, width], "range": [0.0, 1.0]},
        "output": {"name": result},
        "normalised_inside_by": {"mean": mean, "std": std},
        "classes": list(labels.get("names", [])) if labelled else [],
    }
    with written_whole(output) as place:
        with writing(output):
            _write(target, place, wrapped, example, result)
            write_json(place.with_suffix(".json"), about)
        told = _checked(target, place, output, wrapped, example)
    return [f"wrote {output} ({output.stat().st_size / 2**20:.1f} MiB) and {beside}", told]


def _write(target: str, place: Path, wrapped: nn.Module, example: Tensor, result: str) -> None:
    """result: the name of the output."""
    dynamic = {"images": {0: torch.export.Dim.DYNAMIC}}
    with _quiet(), torch.no_grad():
        if target == "torch-export":
            content = io.BytesIO()  # torch's writer ends the whole process on a full disk
            torch.export.save(torch.export.export(wrapped, (example,), dynamic_shapes=dynamic), content)
            place.write_bytes(content.getbuffer())
            return
        with preferred_backend("reference"):
            program = torch.export.export(wrapped, (example,), dynamic_shapes=dynamic)
            written: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["images"], output_names=[result]
            )
            written.save(str(place))


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ConfigError(
                f"--to onnx needs {package}, which is not installed: pip install 'unitrans[export]'"
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)


def _checked(target: str, place: Path, output: Path, wrapped: nn.Module, example: Tensor) -> str:
    """Runs what was written on other batches. ConfigError where it differs from the model."""
    batches = [example[:1], torch.cat([example, 1 - example, example.flip(-1)])]
    if target == "onnx":
        ask = _onnx(place)

        def run(batch: Tensor) -> Tensor:
            return torch.from_numpy(ask({"images": batch.numpy()})[0])
    else:
        run = torch.export.load(place).module()
    worst = 0.0
    with torch.no_grad():
        for batch in batches:
            want = wrapped(batch)
            scale = max(1.0, float(want.abs().max()))
            worst = max(worst, float((run(batch) - want).abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"{output}: what was written differs from the model by {worst:.1e} of the largest output, more than "
            f"{TOLERANCE:.0e}, so nothing is kept"
        )
    return f"checked on batches of 1 and 6 images: it differs from the model by at most {worst:.1e}"


def _onnx(file: Path) -> Callable[[dict[str, Any]], Any]:
    """What runs the file: onnxruntime, or onnx itself, which is slower."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(str(file))
        return lambda inputs: evaluator.run(None, inputs)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)
