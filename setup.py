"""Compiles the C++ of cnnjax; without a compiler the package installs without it.

Everything else about the package is in pyproject.toml. The kernels are compiled once for each instruction set. In place, as by
`pip install -e .`, that is the best set of this machine and the plain one; a wheel has all sets. CNNJAX_KERNELS names others:
`all`, or names with commas. A library that fits its sources, its compiler and XLA's headers is not compiled again.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

JAXLIB = "jaxlib>=0.10,<0.13"  # for XLA's headers; as jax in pyproject.toml
KERNELS, PIXELS, CONFIGS = Path("cnnjax/kernels"), Path("cnnjax/data/pixels"), Path("configs")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-w", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
         "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")  # fmt: skip
GCC_FLAGS = ("-fno-predictive-commoning",)  # it needs more registers than a tile leaves
SAME_PIXELS = ("-ffp-contract=off", "-fwrapv")  # on every CPU, and of every damaged file
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
X86 = {"sse2": (), "avx2": AVX2, "avx512": AVX512, "avx512bf16": (*AVX512, "-mavx512bf16")}  # from plain to best
ARM = {"neon": ()}
SETS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(platform.machine().lower(), {})
NEEDS = {  # macros of a compiler that compiles for a CPU with the set
    "avx2": ("__AVX2__", "__FMA__"),
    "avx512": ("__AVX512F__", "__AVX512BW__", "__AVX512DQ__", "__AVX512VL__"),
    "avx512bf16": ("__AVX512BF16__", "__AVX512F__", "__AVX512BW__", "__AVX512DQ__", "__AVX512VL__"),
}


def headers() -> Path:
    """Finds XLA's headers: those of the installed jaxlib, else those of the jaxlib that pip has brought for the build."""
    found = importlib.util.find_spec("jaxlib")
    places = [sysconfig.get_path("platlib"), *([Path(found.origin).parent.parent] if found else [])]
    for place in places:
        include = Path(place) / "jaxlib" / "include"
        if (include / "xla" / "ffi" / "api" / "ffi.h").exists():
            return include
    raise RuntimeError("jaxlib and its headers are missing")


def compiler() -> list[str]:
    """Finds the command of a C++ compiler: $CXX, g++, clang++ or c++."""
    named = os.environ.get("CXX", "").split()
    for command in (named, ["g++"], ["clang++"], ["c++"]):
        if command and shutil.which(command[0]):
            return list(command)
    raise RuntimeError("no C++ compiler: neither $CXX nor g++ nor clang++ is there")


def output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def own_sets(command: list[str]) -> list[str]:
    """Returns the plain instruction set and the best one of this machine; all, where the compiler does not tell."""
    macros = output([*command, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]).split()
    plain, *better = SETS
    best = [name for name in better if all(macro in macros for macro in NEEDS[name])][-1:]
    return [plain, *best] if macros else list(SETS)


def say(line: str) -> None:
    """Prints to stderr, which pip shows with -v, and to the terminal, where there is one."""
    print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
        if not sys.stderr.isatty():
            print(f"\n  {line}", file=terminal)


class Build(build_ext):
    """Builds plain shared libraries; leaves out what cannot be compiled and says so."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def run(self) -> None:
        try:
            self.command, include = compiler(), headers()
        except RuntimeError as error:
            self.extensions = []
            say(f"warning: {error}; cnnjax is installed without its kernels for the CPU and its PNG reader")
            return
        version = output([*self.command, "--version"])
        wanted = os.environ.get("CNNJAX_KERNELS") or ("all" if not self.inplace else ",".join(own_sets(self.command)))
        names = SETS if wanted == "all" else wanted.split(",")
        self.extensions = [
            e for e in self.extensions if Path(e.sources[0]).parent != KERNELS or e.name.split(".")[-1] in names
        ]
        self.made_by = version + digest(list((include / "xla" / "ffi").rglob("*.h")))
        self.command += [*FLAGS, *(GCC_FLAGS if "Free Software Foundation" in version else ()), "-isystem", str(include)]
        super().run()

    def build_extensions(self) -> None:
        new = [extension for extension in self.extensions if not self.kept(extension)]
        if not new:
            return
        names, start = ", ".join(extension.name for extension in new), time.monotonic()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        say(f"cnnjax: compiling {names} with {self.command[0]} on {cores} cores; about 40 s each on one core")
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            objects = [
                [pool.submit(self.compiled, extension, Path(source)) for source in extension.sources] for extension in new
            ]
            problems = [self.linked(*pair) for pair in zip(new, objects, strict=True)]
        for problem in filter(None, problems):
            say(f"warning: {problem}")
        say(f"cnnjax: compiled in {time.monotonic() - start:.0f} s")

    def stamp(self, extension: Extension) -> tuple[str, str]:
        """Returns the digest of the sources, and one of all else that a library is made with. A library holds both."""
        folder = Path(extension.sources[0]).parent
        made = " ".join((*FLAGS, *extension.extra_compile_args, self.made_by))
        return digest([*folder.glob("*.cc"), *folder.glob("*.h")]), hashlib.sha256(made.encode()).hexdigest()

    def kept(self, extension: Extension) -> bool:
        """Takes over a library that an earlier build has left; returns whether there is one."""
        library = Path(self.get_ext_fullpath(extension.name))
        holds = "\0".join(self.stamp(extension)).encode()
        for earlier in (library, Path(extension.sources[0]).parent / library.name):
            if earlier.exists() and holds in earlier.read_bytes():
                if earlier != library:
                    library.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(earlier, library)
                return True
        return False

    def compiled(self, extension: Extension, source: Path) -> tuple[Path, str]:
        """Compiles one source; returns the object file, and the compiler's complaint or ""."""
        target = Path(self.build_temp) / extension.name / f"{source.stem}.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        sources, made = self.stamp(extension)
        define = f'-DCNNJAX_SOURCES="{sources}" "\\0" "{made}"'
        command = [*self.command, *extension.extra_compile_args, define, "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        return target, done.stderr or "it failed" if done.returncode else ""

    def linked(self, extension: Extension, objects: list[concurrent.futures.Future]) -> str:
        """Makes a library of its objects; returns a line about what went wrong, or ""."""
        library = Path(self.get_ext_fullpath(extension.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(".part")
        files, complaints = zip(*(future.result() for future in objects), strict=True)
        said = "".join(complaints)
        if not said:
            command = [*self.command, "-shared", *map(str, files), "-o", str(part)]
            done = subprocess.run([*command, *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])],
                                  capture_output=True, text=True)  # fmt: skip
            said = done.stderr or "it failed" if done.returncode else ""
        if said:
            part.unlink(missing_ok=True)
            lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
            return f"cnnjax is installed without {library.name}: {lines[0]}"
        part.replace(library)
        return ""


class Modules(build_py):
    """Also copies the files of configs/ into a wheel."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in sorted(CONFIGS.glob("*.py")):
                self.copy_file(str(file), str(self.target(file)))

    def target(self, file: Path) -> Path:
        path = Path(self.build_lib) / "cnnjax" / "configs" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def get_outputs(self, *args, **options) -> list[str]:
        return [*super().get_outputs(*args, **options), *(str(self.target(file)) for file in sorted(CONFIGS.glob("*.py")))]


class Wheel(bdist_wheel):
    """One wheel of a platform for every Python: the libraries know nothing of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def extensions() -> list[Extension]:
    if sys.platform == "win32" or not SETS:
        return []
    make = functools.partial(Extension, optional=True)
    found = [make(f"cnnjax.kernels.{name}", sorted(map(str, KERNELS.glob("*.cc"))), extra_compile_args=list(flags))
             for name, flags in SETS.items()]  # fmt: skip
    if sources := sorted(map(str, PIXELS.glob("*.cc"))):
        found.append(make("cnnjax.data.pixels.images", sources, extra_compile_args=list(SAME_PIXELS)))
    return found


def build_needs() -> list[str]:
    """Returns the packages that pip has to bring for the build: jaxlib, where none is installed."""
    try:
        headers()
    except RuntimeError:
        return [JAXLIB]
    return []


setup(
    setup_requires=build_needs(),
    ext_modules=extensions(),
    cmdclass={"build_ext": Build, "build_py": Modules, "bdist_wheel": Wheel},
)
