"""Turn the C++ source into a shared library, once per source, compiler and CPU, and load it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import filelock

from model.folders import cache_folder

SOURCE = Path(__file__).parent / "src"
PREBUILT = Path(__file__).parent / "prebuilt"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-pthread",
)
V3 = {"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"}
# What copies for several machines are built for, best first: the compiler's name for it, and the
# CPU flags taken for granted.
LEVELS = {
    "x86-64-v4": V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": V3,
    "x86-64": set[str](),
}
COMPILE_SECONDS = 300

log = logging.getLogger(__name__)


class BuildError(Exception):
    """The fused kernel cannot be built or loaded here; the message says why."""


@functools.cache
def load_library() -> ctypes.CDLL:
    """The kernel: a prebuilt copy that suits this CPU, else one built for it in the user's cache.

    Raises:
        BuildError: If no prebuilt copy can be loaded, and no compiler makes one that can.
    """
    if prebuilt := find_prebuilt(cpu_flags()):
        try:
            return _load(prebuilt)
        except BuildError as error:
            log.warning("a prebuilt kernel is left aside, another is built: %s", error)
    native = build_native()
    try:
        return _load(native)
    except BuildError:  # it was cut off as the power failed, say
        native.unlink(missing_ok=True)
        return _load(build_native())


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        for name in ("larnn_forward", "larnn_backward"):
            getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int]
            getattr(library, name).restype = ctypes.c_int64
        library.larnn_saved_bytes.argtypes = [ctypes.c_void_p]
        library.larnn_saved_bytes.restype = ctypes.c_int64
        library.larnn_problem_bytes.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error
    return library


@functools.cache
def is_available() -> bool:
    """Whether the kernel can be used here; a refusal is logged once, with its reason."""
    try:
        load_library()
    except BuildError as error:
        log.warning("the LARNN runs on PyTorch's own operations, several times slower: %s", error)
        return False
    return True


def find_prebuilt(flags: set[str]) -> Path | None:
    """The best prebuilt copy of this very source that a CPU with ``flags`` can run."""
    if not _is_x86():
        return None
    for level, needed in LEVELS.items():
        path = _prebuilt_path(PREBUILT, level)
        if needed <= flags and path.exists():
            return path
    return None


def build_prebuilt(folder: Path = PREBUILT) -> list[Path]:
    """Build a copy for every level of x86-64, for an image that runs on machines not known yet.

    On another architecture none, for nothing would look for it.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    if not _is_x86():
        return []
    compiler = find_compiler()
    paths = [_prebuilt_path(folder, level) for level in LEVELS]
    try:
        for level, path in zip(LEVELS, paths, strict=True):
            _compile(compiler, _flags(level), path)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error}") from error
    return paths


def build_native() -> Path:
    """Build for this CPU, in ``LARNN_CACHE_DIR`` or the user's cache, unless it was built before.

    Safe when several processes start at once: one compiles, the others wait for it.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    compiler = find_compiler()
    flags = _flags("native")
    told = (_version(compiler), *compiler[1:], *flags, *platform.libc_ver())
    identity = [source_hash(), *told, *sorted(cpu_flags())]
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]
    path = cache_folder() / "kernels" / f"larnn-{key}.so"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path.parent)
        if path.exists():
            return path
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                log.info("building the LARNN's kernel for this CPU (once, some seconds)")
                _compile(compiler, flags, path)
    except OSError as error:
        raise BuildError(f"the cache folder {path.parent} cannot be used: {error}") from error
    return path


def _check_owner(folder: Path) -> None:
    """Load no code from where another user of this machine could have put it.

    Raises:
        BuildError: If the folder is another user's, or everybody may write there.
    """
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        raise BuildError(
            f"{folder} is open to other users, who could put any code there: choose another "
            "LARNN_CACHE_DIR, or close it to them"
        )


def find_compiler() -> list[str]:
    """Path of a C++ compiler: ``CXX``, else g++ or clang++ on the ``PATH``.

    ``CXX`` may be several words, as a shell reads them (``ccache g++``).

    Raises:
        BuildError: If there is none.
    """
    wanted = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(wanted)] if wanted else [["g++"], ["clang++"]]
    except ValueError as error:
        raise BuildError(f"CXX is {wanted!r}, which no shell can read: {error}") from error
    for name, *arguments in commands:
        if path := shutil.which(name):
            return [path, *arguments]
    looked_for = f"CXX names {wanted!r}, which does not exist" if wanted else "no g++ or clang++"
    raise BuildError(f"{looked_for}; install a C++ compiler (apt install g++)")


@functools.cache
def source_hash() -> str:
    """Identifies the source."""
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCE.iterdir() if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def cpu_flags() -> set[str]:
    """Instruction sets of this CPU, as the system names them; its type where it names none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    except OSError:
        pass
    return {platform.machine(), platform.processor()}


def _prebuilt_path(folder: Path, level: str) -> Path:
    return folder / f"larnn-{source_hash()[:24]}-{level}.so"


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _flags(machine: str) -> list[str]:
    """For a machine as the compiler names it; on x86-64 compilers shy away from wide vectors."""
    wide = ["-mprefer-vector-width=512"] if _is_x86() else []
    return [*FLAGS, *wide, f"-march={machine}"]


def _version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"])


def _compile(compiler: list[str], flags: list[str], path: Path) -> None:
    """Compile beside ``path``, then rename: nobody ever loads half a library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        _run([*compiler, *flags, str(SOURCE / "kernel.cpp"), "-o", str(made)])
        made.replace(path)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        told = done.stderr.splitlines()  # the linker's own words come before the compiler's
        lines = [line for line in told if "error" in line or "ld: " in line] or ["(no message)"]
        raise BuildError(f"{command[0]} failed with status {done.returncode}: {lines[0]}")
    return done.stdout
