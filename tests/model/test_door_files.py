"""What is on the disk is whole at every moment: kills, full disks, interrupts, two at once."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_expand
from onnx_expand import model as door
from onnx_expand.cli import main

SIZE = 64


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: these tests write to the disk again and again."""
    memory = Path("/dev/shm")
    if os.environ.get("LARGE") or not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def network(seed: int) -> onnx.ModelProto:
    """Two matrices that fold, and one behind an activation."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,{SIZE}] x) => (float[N,{SIZE}] y) '
        "{ a = MatMul(x, u) b = MatMul(a, v) c = Relu(b) y = MatMul(c, w) }"
    )
    rng = np.random.default_rng(seed)
    for name in "uvw":
        array = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def write(path: Path, seed: int, *, external: bool) -> Path:
    onnx.save(
        network(seed),
        path,
        save_as_external_data=external,
        location=f"{path.name}.weights",
        size_threshold=0,
    )
    return path


def content(path: Path) -> list[Any]:
    """The weights of a model file, wherever they lie, in order; fails if it is not whole."""
    door.load(path)  # sizes and places of all of it
    return [numpy_helper.to_array(t).tolist() for t in onnx.load(path).graph.initializer]


EXTERNAL = pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])

_KILL = """
import os, signal, sys
from pathlib import Path
import onnx_expand
source, root = sys.argv[1:]
count = 0
def deadly(function, moment, number):
    def call(*arguments, **options):
        global count
        count += 1
        if count == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if count == number and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
onnx_expand.fold(source, source + ".warm")  # what is imported on the way is there for all
for case in sorted(os.listdir(root)):
    moment, number = case.split("-")
    child = os.fork()
    if not child:
        for name in ("replace", "unlink", "chmod"):
            setattr(Path, name, deadly(getattr(Path, name), moment, int(number)))
        os.fsync = deadly(os.fsync, moment, int(number))
        onnx_expand.fold(source, os.path.join(root, case, "out.onnx"))
        os._exit(0)
    print(case, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@EXTERNAL
def test_a_kill_at_any_moment_leaves_a_whole_model(external: bool, tmp_path: Path) -> None:
    """Killed before or after each step on the disk, the old output is there or the new one."""
    expected, sources = [], []
    for seed in range(2):
        sources.append(write(tmp_path / f"{seed}.onnx", seed, external=external))
        (tmp_path / f"folded{seed}").mkdir()
        onnx_expand.fold(sources[-1], tmp_path / f"folded{seed}" / "out.onnx")
        expected.append(content(tmp_path / f"folded{seed}" / "out.onnx"))
    root, steps = tmp_path / "root", 13 if external else 7
    for number in range(1, steps):
        for moment in ("before", "after"):
            shutil.copytree(tmp_path / "folded0", root / f"{moment}-{number}")
    command = [sys.executable, "-c", _KILL, str(sources[1]), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    codes = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert codes["after-1"] == -signal.SIGKILL
    assert codes[f"after-{steps - 1}"] == 0, "there are more steps than were tried"
    seen = []
    for case in codes:
        seen.append(expected.index(content(root / case / "out.onnx")))
        if case.startswith("after"):  # what a kill left behind is in nobody's way
            onnx_expand.fold(sources[0], root / case / "out.onnx")
            assert content(root / case / "out.onnx") == expected[0]
    assert set(seen) == {0, 1}


@EXTERNAL
def test_a_full_disk_leaves_the_old_model(external: bool, tmp_path: Path) -> None:
    """Where a file cannot grow, the command fails in one line and changes nothing."""
    target = tmp_path / "out.onnx"
    onnx_expand.fold(write(tmp_path / "old.onnx", 0, external=external), target)
    source, before = write(tmp_path / "new.onnx", 1, external=external), content(target)
    there = sorted(p.name for p in tmp_path.iterdir())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    command = [sys.executable, "-m", "onnx_expand", "fold", str(source), str(target)]
    done = subprocess.run(
        [*command, "--check", "0"], capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written" in done.stderr
    assert content(target) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == there


@EXTERNAL
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupt_leaves_no_partial_file(
    external: bool, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a file is written ends with its exit code and the directory as it was."""
    target = tmp_path / "out.onnx"
    onnx_expand.fold(write(tmp_path / "old.onnx", 0, external=external), target)
    source, before = write(tmp_path / "new.onnx", 1, external=external), content(target)
    there = sorted(p.name for p in tmp_path.iterdir())

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", interrupt)
    assert main(["fold", str(source), str(target), "--check", "0"]) == 130
    monkeypatch.undo()
    assert content(target) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == there


_OFTEN = """
import sys, onnx_expand
for _ in range(12):
    onnx_expand.fold(sys.argv[1], sys.argv[2])
"""


@EXTERNAL
def test_two_at_once_leave_one_whole_model(external: bool, tmp_path: Path) -> None:
    """Processes that write the same output again and again leave what one of them wrote."""
    target = tmp_path / "out.onnx"
    sources = [write(tmp_path / f"{i}.onnx", i, external=external) for i in range(2)]
    expected = []
    for source in sources:
        onnx_expand.fold(source, target)
        expected.append(content(target))
    command = [sys.executable, "-c", _OFTEN]
    children = [subprocess.Popen([*command, str(source), str(target)]) for source in sources]
    assert [child.wait(60) for child in children] == [0, 0]
    assert content(target) in expected
    files = {p.name for p in tmp_path.iterdir() if p.name.startswith((".", "out"))}
    assert len(files) == 1 + external


def test_writing_again_leaves_no_old_weights(tmp_path: Path) -> None:
    """The same result keeps its file; another one takes another name, and the old file goes."""
    target = tmp_path / "out.onnx"
    one, other = (write(tmp_path / f"{i}.onnx", i, external=True) for i in range(2))
    onnx_expand.fold(one, target)
    first = {p.name: p.read_bytes() for p in tmp_path.glob("out*")}
    assert set(first) == {"out.onnx", "out.onnx.data"}
    onnx_expand.fold(one, target)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("out*")} == first
    onnx_expand.fold(other, target)
    assert {p.name for p in tmp_path.glob("out*")} == {"out.onnx", "out.onnx.1.data"}
    onnx_expand.fold(one, target)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("out*")} == first


def test_only_what_was_external_and_what_is_new_lies_elsewhere(tmp_path: Path) -> None:
    """A weight that lay in the model's own file stays there when others are external."""
    source = write(tmp_path / "net.onnx", 0, external=True)
    mixed = onnx.load(source, load_external_data=False)
    mixed.graph.initializer[2].CopyFrom(network(0).graph.initializer[2])
    source.write_bytes(mixed.SerializeToString())
    onnx_expand.fold(source, tmp_path / "out.onnx")
    result = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert [t.name for t in result if t.data_location == onnx.TensorProto.EXTERNAL] == ["u"]
    assert content(tmp_path / "out.onnx")[1] == content(source)[2]


# -- More than two gigabytes ------------------------------------------------------------------

LARGE = pytest.mark.skipif(not os.environ.get("LARGE"), reason="5 GiB of disk; LARGE=1 runs it")
ROWS = 300_000
COLUMNS = 2_000  # 2.4 GB of float32


def large(path: Path) -> Path:
    """A model of 2.4 GB of weights of which the file system stores next to nothing."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,{COLUMNS}] y) '
        f"<float[4,4] u = {{{','.join('1' * 16)}}}, float[4,4] v = {{{','.join('2' * 16)}}}> "
        "{ a = MatMul(x, u) b = MatMul(a, v) i = Cast <to = 7> (b) "
        "c = GatherND(w, i) y = Relu(c) }"
    )
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[ROWS, COLUMNS])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    size = 4 * ROWS * COLUMNS
    for key, value in {"location": "w.bin", "offset": 0, "length": size}.items():
        tensor.external_data.add(key=key, value=str(value))
    with (path.parent / "w.bin").open("wb") as stream:
        stream.truncate(size)
        stream.seek(size - 4)
        stream.write(np.float32(1).tobytes())
    path.write_bytes(model.SerializeToString())
    return path


@LARGE
def test_large_external_weights_are_never_in_memory(tmp_path: Path) -> None:
    """2.4 GB of weights pass through a process that may hold a fraction of that, twice."""
    source, target = large(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    script = (
        "import resource, sys, onnx_expand\n"
        "onnx_expand.fold(sys.argv[1], sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    for _ in range(2):
        command = [sys.executable, "-c", script, str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 600 * 1024  # KiB
        result = door.load(target)
        assert [n.op_type for n in result.graph] == ["MatMul", "Cast", "GatherND", "Relu"]
        weight = result.graph.initializers["w"].const_value
        assert weight is not None
        assert weight.numpy()[-1, -1] == 1
        assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.onnx", "out.onnx.data"]


@LARGE
def test_large_weights_in_memory_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    """A model that no protobuf message can hold is written with external data."""
    array = np.zeros((ROWS, COLUMNS), np.float32)
    array[-1, -1] = 1
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[{ROWS},{COLUMNS}] y) '
        f"<float[{ROWS},{COLUMNS}] w> {{ y = Mul(w, x) }}",
        initializers=[ir.tensor(array, name="w")],
    )
    door.save(model, tmp_path / "out.onnx")
    weight = door.load(tmp_path / "out.onnx").graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy()[-1, -1] == 1
    assert (tmp_path / "out.onnx").stat().st_size < 1000


def test_files_beyond_protobufs_limit_are_refused(tmp_path: Path) -> None:
    """A file of more than 2 GiB is no readable protobuf; the error says what to do."""
    path = tmp_path / "net.onnx"
    with path.open("wb") as stream:
        stream.truncate(1 << 31)
    with pytest.raises(onnx_expand.ModelError, match="as external data"):
        door.load(path)
