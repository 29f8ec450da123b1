"""Data sets of the hub, against a server on this machine that answers what `datasets` asks."""

import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig
from unitrans.errors import SourceError

ROOT = Path(__file__).parents[2]
COMMIT = hashlib.sha1(b"one commit").hexdigest()


class Hub(ThreadingHTTPServer):
    """Serves the folders OWNER/NAME below ``root`` as public data sets with one commit."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []
        self.files_left: int | None = None  # after so many answers about files, connections are reset

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        self._reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _not_found(self, code: str) -> None:
        self._reply(
            404, b'{"error": "not found"}', {"X-Error-Code": code, "Content-Type": "application/json"}
        )

    def _find(self, parts: list[str]) -> tuple[Path | None, list[str]]:
        for length in (1, 2):
            folder = self.server.root.joinpath(*parts[:length])
            if (folder / "README.md").is_file():
                return folder, parts[length:]
        return None, []

    @staticmethod
    def _entry(folder: Path, path: Path) -> dict[str, object]:
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": "1" * 40, "size": path.stat().st_size}

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if self._is_broken():
            return
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/") if part]
        if parts[:2] == ["api", "datasets"]:
            self._api(parts[2:], "recursive=True" in url.query or "recursive=true" in url.query)
        elif parts[:1] == ["datasets"]:
            self._file(parts[1:])
        else:
            self._not_found("EntryNotFound")

    def _is_broken(self) -> bool:
        left = self.server.files_left
        if left is None or "/resolve/" not in self.path:
            return False
        self.server.files_left = max(0, left - 1)
        if left == 0:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()  # with a reset
            self.close_connection = True
        return left == 0

    def finish(self) -> None:
        if not self.connection._closed:
            super().finish()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/") if part]
        folder, rest = self._find(parts[2:])
        if folder is None or rest[:1] != ["paths-info"]:
            self._not_found("RepoNotFound")
            return
        paths = body["paths"] if isinstance(body["paths"], list) else [body["paths"]]
        self._json([self._entry(folder, folder / p) for p in paths if p and (folder / p).exists()])

    def _api(self, parts: list[str], recursive: bool) -> None:
        folder, rest = self._find(parts)
        if folder is None and len(parts) == 1 and (self.server.root / "owner" / parts[0]).is_dir():
            self._reply(307, b"", {"Location": f"/api/datasets/owner/{parts[0]}"})
        elif folder is None:
            self._not_found("RepoNotFound")
        elif rest and rest[1] not in ("main", COMMIT):
            self._not_found("RevisionNotFound")
        elif rest[:1] == ["tree"]:
            below = folder.joinpath(*rest[2:])
            if not below.is_dir():
                self._not_found("EntryNotFound")
                return
            found = sorted(below.rglob("*") if recursive else below.iterdir())
            self._json([self._entry(folder, path) for path in found])
        else:
            name = folder.relative_to(self.server.root).as_posix()
            files = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
            self._json(
                {"id": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": [],
                 "downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}
            )  # fmt: skip

    def _file(self, parts: list[str]) -> None:
        folder, rest = self._find(parts)
        if folder is None:
            self._not_found("RepoNotFound")
            return
        path = folder.joinpath(*rest[2:])
        if rest[:1] != ["resolve"] or not path.is_file():
            self._not_found("EntryNotFound")
            return
        content, headers, status = path.read_bytes(), {}, 200
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        headers |= {
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        span = self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {first}-{min(end, len(content)) - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        self._reply(status, content, headers)


def _png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((24, 20, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def _write_parquet(file: Path, numbers: range, name: str) -> None:
    """Image number i is named NAME-i.png and has the value i everywhere."""
    rows = {
        "picture": [{"bytes": _png(i), "path": f"{name}-{i:02}.png"} for i in numbers],
        "label": [0 for _ in numbers],
    }
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """owner/photos: parquet, 3 training files with 40 images and a test split; owner/class-folders, also known as
    class-folders: images as files."""
    root = tmp_path_factory.mktemp("hub")
    data = root / "owner" / "photos" / "data"
    for shard in range(3):
        _write_parquet(data / f"train-{shard:05}-of-00003.parquet", range(shard, 40, 3), "photo")
    _write_parquet(data / "test-00000-of-00001.parquet", range(6), "other")
    (data.parent / "README.md").write_text("Photos\n")
    folders = root / "owner" / "class-folders"
    for i in range(12):
        path = folders / ["cat", "dog"][i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), i * 20, np.uint8)).save(path)
    (folders / "README.md").write_text("Class folders\n")
    server = Hub(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


READ = """
import json, sys
from types import SimpleNamespace
from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig
model = SimpleNamespace(in_chans=3, patch_size=4, plans=lambda grids: None)
for given in json.loads(sys.argv[1]):
    count = given.pop("count", 0)
    options = {"image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "validation": "none"} | given
    try:
        train, held_out = get_domain("vision").open(DataConfig(**options), model, 0)
    except ValueError as error:
        print("found", json.dumps({"error": str(error)}))
        continue
    samples = [train.load(i) for i in range(count if train.in_order else len(train))]
    print("found", json.dumps({
        "ids": [sample["id"] for sample in samples],
        "values": [round(sample["image"].mean().item() * 255) for sample in samples],
        "held_out": held_out and held_out.ids,
        "notes": train.notes,
    }))
"""


def environment(hub: Hub | str, home: Path, **more: str) -> dict[str, str]:
    endpoint = hub if isinstance(hub, str) else hub.endpoint
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return kept | settings | {"NO_PROXY": "127.0.0.1"} | more


def read(hub: Hub | str, home: Path, *options: dict[str, Any], **more: str) -> list[dict[str, Any]]:
    """What the domain makes of ``data`` options, in a process that knows the hub by HF_ENDPOINT. ``count``: how many
    samples of a stream are wanted."""
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(options)],
        env=environment(hub, home, **more), capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("found ")]


CLASS_FOLDERS = {"path": "class-folders", "stream_samples": 12, "count": 12}


def test_data_sets_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    found, files = read(hub, tmp_path, {"path": "owner/photos", "validation": "test"}, CLASS_FOLDERS)
    numbers = [i for shard in range(3) for i in range(shard, 40, 3)]
    assert found["ids"] == [f"photo-{i:02}.png" for i in numbers] and found["values"] == numbers
    assert found["held_out"] == [f"other-{i:02}.png" for i in range(6)]
    assert found["notes"] == [f"owner/photos of {hub.endpoint} at commit {COMMIT}"]
    check_class_folders(files)
    # What has been downloaded once is there without a network.
    (cached,) = read(hub, tmp_path, {"path": "owner/photos"}, HF_HUB_OFFLINE="1")
    assert cached["ids"] == found["ids"] and "is read from the cache" in cached["notes"][0]


def test_data_sets_of_the_hub_are_streamed(hub: Hub, tmp_path: Path) -> None:
    options = {
        "path": "owner/photos",
        "validation": "test",
        "streaming": True,
        "shuffle_buffer": 8,
        "count": 80,
    }
    found, files = read(hub, tmp_path, options, CLASS_FOLDERS | {"streaming": True})
    for epoch in (found["ids"][:40], found["ids"][40:]):
        assert sorted(epoch) == [f"photo-{i:02}.png" for i in range(40)]
    assert found["values"] == [int(name[6:8]) for name in found["ids"]]
    assert sorted(found["held_out"]) == [f"other-{i:02}.png" for i in range(6)]
    assert "about 40 training samples an epoch" in found["notes"][1]
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.arrow"))
    check_class_folders(files)


def check_class_folders(found: dict[str, Any]) -> None:
    assert sorted(found["ids"]) == sorted(f"{['cat', 'dog'][i % 2]}/{i}.png" for i in range(12))
    assert found["values"] == [20 * int(Path(name).stem) for name in found["ids"]]
    assert found["notes"][0].startswith("owner/class-folders of ")


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"path": "owner/nothing"}, "has no (public) data set 'owner/nothing'"),
    ({"path": "digitz"}, "(digits); did you mean 'digits'?, and the hub http://127.0.0.1:"),
    ({"path": "owner/photos:large"}, "cannot be read as a data set: BuilderConfig 'large' not found"),
    ({"path": "owner/photos", "revision": "v2"}, "has no data.revision='v2'"),
    ({"path": "owner/photos", "split": "tests"}, "expected one of train, test; did you mean 'test'?"),
    ({"path": "owner/photos", "image_column": "picturf"}, "did you mean 'picture'?"),
    ({"path": "./owner/photos"}, "there is no folder './owner/photos'"),
    ({"path": "a/b/c"}, "and it is not spelled as a hub name"),
    ({"path": "class-folders", "streaming": True}, "does not say how many rows it has: give the number"),
]  # fmt: skip


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    cases = [
        (given | {"streaming": streaming}, sentence)
        for given, sentence in ERRORS
        for streaming in (False, True)
    ]
    cases = [case for case in cases if case[0]["streaming"] or case[0]["path"] != "class-folders"]
    for (given, sentence), found in zip(cases, read(hub, tmp_path, *[c for c, _ in cases]), strict=True):
        assert sentence in found["error"] and "\n" not in found["error"], (given, found)


def test_no_hub(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.perf_counter()
    error = read(nobody, tmp_path, {"path": "owner/photos"})[0]["error"]
    assert f"the hub {nobody} cannot be reached" in error and "is this machine offline?" in error
    assert error.startswith("data.path: there is no folder 'owner/photos' and no embedded data set")
    offline = read(nobody, tmp_path, {"path": "owner/photos"}, HF_HUB_OFFLINE="1")[0]["error"]
    assert "the hub is not asked, because HF_HUB_OFFLINE is set" in offline
    assert time.perf_counter() - start < 150  # no rounds of retries


TINY = """data.image_size=32 model.embed_dim=8 model.depths=[1,1] model.num_heads=[1,2] model.window_size=4
objective.mask_patch_size=8 train.per_device_train_batch_size=4 train.per_device_eval_batch_size=4 train.max_steps=20
train.save_steps=10 train.eval_steps=10 data.mean=[0.5,0.5,0.5] data.std=[0.25,0.25,0.25] data.validation=0.2
data.streaming=true data.shuffle_buffer=8""".split()


# The command, with short waits between the attempts of the libraries.
COMMAND = """
import sys
import datasets
import huggingface_hub.utils._http as transport
from unitrans.cli import main
datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
for attempts in (transport.http_backoff, transport.http_stream_backoff):
    getattr(attempts, "__wrapped__", attempts).__kwdefaults__.update(base_wait_time=0.01)
sys.exit(main(["train", *sys.argv[1:]]))
"""


def command(hub: Hub, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env=environment(hub, home), capture_output=True, text=True, timeout=280, cwd=home,
    )  # fmt: skip


def _train(hub: Hub, home: Path, *arguments: str) -> Path:
    done = command(hub, home, *arguments)
    assert done.returncode == 0, done.stderr
    return home / arguments[1]


@pytest.mark.slow
def test_a_streamed_run_goes_on_exactly(hub: Hub, tmp_path: Path) -> None:
    """The same weights with a loader worker, whose connections the server resets in the second epoch or later, and from
    there on."""
    whole = _train(hub, tmp_path, "--output", "whole", "--data", "owner/photos", *TINY)
    weights = "checkpoints/step-0000020/model.safetensors"
    expected = (whole / weights).read_bytes()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in rows) > 2
    often = [s for s in TINY if "save_steps" not in s] + [
        "train.save_steps=5",
        "train.dataloader_num_workers=1",
    ]
    hub.files_left = 20
    try:
        done = command(hub, tmp_path, "--output", "broken", "--data", "owner/photos", *often)
    finally:
        hub.files_left = None
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    saved = r"everything up to update (5|10|15) is saved, to go on: \S.* train --resume broken$"
    where = r"unitrans: data\.path: 'owner/photos' broke off after row \d+ of file [123] of 3 \(.+\); "
    assert re.match(where + saved, last), last
    _train(hub, tmp_path, "--resume", "broken")
    assert (tmp_path / "broken" / weights).read_bytes() == expected


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    """Found while it is read: one sentence, which a loader worker passes on in front of nothing else."""
    for shard in range(2):
        _write_parquet(tmp_path / f"train-{shard}.parquet", range(shard, 40, 2), "photo")
    model = SimpleNamespace(in_chans=3, patch_size=4, plans=lambda grids: None)
    config = DataConfig(
        path=str(tmp_path), streaming=True, shuffle_buffer=4, validation="none", image_size=16,
        mean=[0.5] * 3, std=[0.25] * 3,
    )  # fmt: skip
    train, _ = get_domain("vision").open(config, model, 0)
    assert train.load(0) is not None
    for file in tmp_path.glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-400])
    sentence = r"data\.path: '.+' broke off after row \d+ of file \d of 2 \(.+\)"
    with pytest.raises(SourceError, match=sentence) as caught:
        [train.load(index) for index in range(80)]
    assert caught.value.sentence == str(caught.value) and "\n" not in caught.value.sentence
    try:
        raise caught.value
    except SourceError:
        wrapper = torch._utils.ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(SourceError) as passed_on:
        wrapper.reraise()
    assert "Traceback" in str(passed_on.value) and passed_on.value.sentence == caught.value.sentence
