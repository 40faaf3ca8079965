"""Compiles cnnjax/kernels once for each instruction set, and cnnjax/data/pixels; without a compiler the package installs without.

Everything else about the package stands in pyproject.toml.
"""

import concurrent.futures
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS, PIXELS = Path("cnnjax/kernels"), Path("cnnjax/data/pixels")
SOURCES = ("adam.cc", "conv.cc", "conv_backward.cc", "conv_forward.cc", "dense.cc", "handlers.cc", "norm.cc", "normed.cc",
           "plain.cc", "pool.cc", "sample.cc")  # fmt: skip
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-w", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
         "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")  # fmt: skip
GCC_FLAGS = ("-fno-predictive-commoning",)  # it needs more registers than a tile leaves
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
X86 = {"sse2": (), "avx2": AVX2, "avx512": AVX512, "avx512bf16": (*AVX512, "-mavx512bf16")}
ARM = {"neon": ()}
SETS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(platform.machine().lower(), {})


def headers() -> Path:
    """XLA's: of the jaxlib that is installed where this package goes, else of the one that pip has brought for the build."""
    found = importlib.util.find_spec("jaxlib")
    places = [sysconfig.get_path("platlib"), *([Path(found.origin).parent.parent] if found else [])]
    for place in places:
        include = Path(place) / "jaxlib" / "include"
        if (include / "xla" / "ffi" / "api" / "ffi.h").exists():
            return include
    raise RuntimeError("jaxlib and its headers are missing")


def compiler() -> list[str]:
    """The command of a C++ compiler: $CXX, or what is usual."""
    named = os.environ.get("CXX", "").split()
    for command in (named, ["g++"], ["clang++"], ["c++"]):
        if command and shutil.which(command[0]):
            return list(command)
    raise RuntimeError("no C++ compiler: neither $CXX nor g++ nor clang++ is there")


def digest(folder: Path) -> str:
    """Of the sources, by which the package knows a library that is older than they are."""
    files = sorted([*folder.glob("*.cc"), *folder.glob("*.h")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class Build(build_ext):
    """A plain shared library for each instruction set; what cannot be built is left out, and said."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def run(self) -> None:
        try:
            self.command, self.include = compiler(), headers()
            version = subprocess.run([*self.command, "--version"], capture_output=True, text=True).stdout
            self.command += [*FLAGS, *(GCC_FLAGS if "Free Software Foundation" in version else ())]
        except RuntimeError as error:
            self.extensions = []
            self.say(f"{error}; cnnjax is installed without its kernels for the CPU and its decoder")
            return
        super().run()

    def build_extensions(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = [problem for problem in pool.map(self.compiled, self.extensions) if problem]
        for problem in problems:
            self.say(problem)

    def compiled(self, extension: Extension) -> str:
        """Builds one library; returns what went wrong."""
        library = Path(self.get_ext_fullpath(extension.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(".part")
        sources = digest(Path(extension.sources[0]).parent)
        command = [*self.command, *extension.extra_compile_args, f'-DCNNJAX_SOURCES="{sources}"', "-isystem",
                   str(self.include), "-shared",
                   *extension.sources, "-o", str(part)]  # fmt: skip
        if sys.platform == "darwin":
            command += ["-undefined", "dynamic_lookup"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            part.unlink(missing_ok=True)
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            return f"cnnjax is installed without {library.name}: {lines[0]}"
        part.replace(library)
        return ""

    def say(self, line: str) -> None:
        print(f"warning: {line}", file=sys.stderr)


def extensions() -> list[Extension]:
    if sys.platform == "win32" or not SETS:
        return []
    sources = [str(KERNELS / source) for source in SOURCES]
    kernels = [Extension(f"cnnjax.kernels.{name}", sources, extra_compile_args=list(flags), optional=True)
               for name, flags in SETS.items()]  # fmt: skip
    flags = ["-ffp-contract=off", "-fwrapv"]  # the same pixels on every CPU, and of every damaged file
    sources = [str(PIXELS / source) for source in ("images.cc", "jpeg.cc", "png.cc", "resize.cc")]
    return [*kernels, Extension("cnnjax.data.pixels.images", sources, extra_compile_args=flags, optional=True)]


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
