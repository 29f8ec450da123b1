"""Whether an exported classifier says the same of every image as `unitrans predict`.

    unitrans export --checkpoint RUN --to onnx -o model.onnx
    unitrans predict --checkpoint RUN IMAGES -o predictions.csv
    python -m benchmarks.onnx_labels model.onnx predictions.csv

Images are those that the predictions name, of the size of the model; onnxruntime computes on one thread.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("predictions", type=Path)
    args = parser.parse_args()
    about = json.loads(args.model.with_suffix(".json").read_text())
    with args.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    channels = about["input"]["shape"][1]
    images = np.stack([_pixels(row["image"], "RGB" if channels == 3 else "L") for row in rows])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
    feeds = {about["input"]["name"]: images}
    logits = session.run([about["output"]["name"]], feeds)[0].astype(np.float64)
    exact = np.exp(logits - logits.max(1, keepdims=True))
    shares = exact / exact.sum(1, keepdims=True)
    classes = about["classes"]
    wanted = np.array([[float(row[f"class_p_{name}"]) for name in classes] for row in rows])
    same = sum(classes[k] == row["class"] for k, row in zip(logits.argmax(1), rows, strict=True))
    print(
        f"{same} of {len(rows)} labels are the same; probabilities differ by at most {abs(shares - wanted).max():.1e}"
    )


def _pixels(path: str, mode: str) -> np.ndarray:
    """float32 [C, H, W] in [0, 1]."""
    image = np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


if __name__ == "__main__":
    main()
