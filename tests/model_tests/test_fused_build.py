"""The kernel is built once, by one process, for the right CPU; without it, the layer still runs."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.fused import build
from model.fused.__main__ import main
from model.fused.function import _Problem
from tests.model_tests.test_reference import assert_same, make_layer

ROOT = Path(__file__).parents[2]
TRAIN_A_STEP = """
import pathlib
import torch
from model.fused import build
build.PREBUILT = pathlib.Path("none")  # copies in this folder are not what is tested
from model.layer import LARNN
for _ in range(2):
    layer = LARNN(3, 4, num_heads=2, window_size=3)
    output, _ = layer(torch.ones(5, 6, 3))
    output.sum().backward()
    assert output.isfinite().all()
print(layer.backend)
"""


def start(tmp_path, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "LARNN_BACKEND")}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN_A_STEP],
        cwd=ROOT,
        env=inherited | {"LARNN_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return stdout.strip(), stderr


def fake_compiler(tmp_path, script):
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    return str(compiler)


def test_processes_that_start_at_once_build_once(tmp_path, compiler):
    log = tmp_path / "log"
    logged = fake_compiler(tmp_path, f'echo "$@" >> {log}\nexec {compiler} "$@"')
    processes = [start(tmp_path, CXX=logged) for _ in range(2)]
    for process in processes:
        backend, stderr = end(process)
        assert backend == "fused", stderr
    compiled = [line for line in log.read_text().splitlines() if "kernel.cpp" in line]
    assert len(compiled) == 1
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1


def test_without_a_compiler_torch_computes_and_one_warning_says_so(tmp_path):
    backend, stderr = end(start(tmp_path, PATH=""))
    assert backend == "torch"
    assert stderr.count("PyTorch's own operations") == 1
    assert "no g++ or clang++; install a C++ compiler (apt install g++)" in stderr


FAILING = 'case "$1" in --version) echo 1;; *) echo "x.h: error: no such thing" >&2; exit 3;; esac'


def test_with_a_failing_compiler_torch_computes_and_one_warning_says_so(tmp_path):
    backend, stderr = end(start(tmp_path, CXX=fake_compiler(tmp_path, FAILING)))
    assert backend == "torch"
    assert stderr.count("PyTorch's own operations") == 1
    assert "status 3: x.h: error: no such thing" in stderr


@pytest.mark.usefixtures("compiler")
def test_python_and_cpp_agree_on_the_problem():
    assert build.load_library().larnn_problem_bytes() == ctypes.sizeof(_Problem)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_failing_build_says_what_the_compiler_said(tmp_path, empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, FAILING))
    with pytest.raises(build.BuildError, match=r"status 3: x\.h: error: no such thing"):
        build.build_native()
    assert not list(empty_cache.rglob("*.so"))


def test_another_compiler_or_cpu_gets_a_build_of_its_own(tmp_path, empty_cache, monkeypatch):
    touch_last = 'for last; do :; done; touch "$last"'

    def built(version, cpu):
        script = f'if [ "$1" = --version ]; then echo {version}; else {touch_last}; fi'
        monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
        monkeypatch.setattr(build, "cpu_flags", lambda: cpu)
        return build.build_native()

    paths = [built(1, {"avx2"}), built(2, {"avx2"}), built(1, set()), built(1, {"avx2"})]
    assert len(set(paths)) == 3
    assert paths[0] == paths[3]


def test_a_compiler_named_and_missing_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        build.BuildError, match="CXX names 'no-such-compiler', which does not exist"
    ):
        build.find_compiler()
    monkeypatch.setenv("CXX", "'ccache g++")
    with pytest.raises(build.BuildError, match="no shell can read: No closing quotation"):
        build.find_compiler()


@pytest.mark.parametrize(("machine", "wide"), [("x86_64", True), ("aarch64", False)])
def test_a_compiler_may_be_several_words(machine, wide, tmp_path, empty_cache, monkeypatch):
    script = f'echo "$@" >> {tmp_path}/log; for last; do :; done; touch "$last"'
    monkeypatch.setenv("CXX", f"{fake_compiler(tmp_path, script)} g++")
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    assert build.build_native().parent == empty_cache / "kernels"
    words = (tmp_path / "log").read_text().splitlines()[-1].split()
    assert words[0] == "g++"
    assert "-march=native" in words
    assert ("-mprefer-vector-width=512" in words) == wide  # other machines' compilers refuse it


@pytest.mark.skipif(build.platform.machine() != "x86_64", reason="levels of x86-64")
def test_a_prebuilt_copy_that_cannot_be_loaded_is_left_aside(
    tmp_path, compiler, empty_cache, monkeypatch, caplog
):
    for level in build.LEVELS:
        build._prebuilt_path(tmp_path, level).write_text("for another system")
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    monkeypatch.setattr(
        build, "_flags", lambda machine: ["-shared", "-fPIC", "-pthread", "-std=c++17"]
    )
    library = build.load_library.__wrapped__()
    assert library._name.startswith(str(empty_cache))
    assert [r.message.partition(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        "a prebuilt kernel is left aside, another is built"
    ]


@pytest.mark.skipif(build.platform.machine() != "x86_64", reason="levels of x86-64")
def test_prebuilt_copies_are_chosen_by_what_the_cpu_can(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    best = build.LEVELS["x86-64-v4"]
    assert build.find_prebuilt(best) is None
    for level in build.LEVELS:
        build._prebuilt_path(tmp_path, level).touch()
    assert build.find_prebuilt(best).stem.endswith("x86-64-v4")
    assert build.find_prebuilt(best - {"avx512f"}).stem.endswith("x86-64-v3")
    assert build.find_prebuilt({"sse2"}).stem.endswith("x86-64")
    monkeypatch.setattr(build, "source_hash", lambda: "another source")
    assert build.find_prebuilt(best) is None


def test_no_copies_of_x86_are_built_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert build.build_prebuilt(tmp_path / "prebuilt") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(build.platform.machine() != "x86_64", reason="levels of x86-64")
@pytest.mark.parametrize("level", [name for name in build.LEVELS if name != "x86-64-v4"])
def test_narrower_vectors_compute_the_same(level, compiler, tmp_path, monkeypatch, capsys, double):
    if not build.LEVELS[level] <= build.cpu_flags():
        pytest.skip(f"this CPU cannot run {level}")
    monkeypatch.setenv("LARNN_BACKEND", "fused")
    monkeypatch.setattr(build, "LEVELS", {level: build.LEVELS[level]})
    monkeypatch.setattr("sys.argv", ["model.fused", "build", "--into", str(tmp_path)])
    assert main() == 0
    assert capsys.readouterr().out.strip().endswith(f"{level}.so")
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    library = build.load_library.__wrapped__()
    assert level in library._name
    monkeypatch.setattr("model.fused.function.load_library", lambda: library)
    for norm, positions, heads in (("batch", "none", 3), ("layer", "static", 2)):
        layer = make_layer(1, norm=norm, positional_encoding=positions, heads=heads, head_size=3)
        assert_same(layer, torch.randn(4, 11, 3))


def test_a_cached_kernel_that_was_cut_off_is_built_again(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    path = build.build_native()
    whole = path.read_bytes()
    path.write_bytes(b"")
    build.load_library.cache_clear()
    build.load_library()
    assert len(path.read_bytes()) == len(whole)


def test_no_code_is_loaded_from_a_folder_that_is_open_to_others(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    with pytest.raises(build.BuildError, match="open to other users"):
        build.build_native()


def test_a_compilers_arguments_make_another_kernel(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("LARNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "_compile", lambda _compiler, _flags, path: path.touch())
    plain = build.build_native()
    monkeypatch.setenv("CXX", f"{compiler} -O0")
    assert build.build_native() != plain
