"""Installing: the libraries that setup.py compiles, when it compiles again, and a wheel that works anywhere."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from training_tools import ROOT

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
X86 = platform.machine() in ("x86_64", "AMD64")
pytestmark = pytest.mark.skipif(not COMPILER or not (ROOT / "setup.py").exists(), reason="no C++ compiler or no sources")


@pytest.fixture
def build(tmp_path):
    """Runs setup.py on a kernel and a decoder of one line each; returns what it says and the libraries by name."""
    for room in ("kernels", "data/pixels"):
        (tmp_path / "cnnjax" / room).mkdir(parents=True)
        (tmp_path / "cnnjax" / room / "one.cc").write_text('extern "C" const char* sources() { return CNNJAX_SOURCES; }\n')
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "setup.py", tmp_path)  # alone: pyproject.toml is not needed to compile

    def run(*flags, **environment):
        environment = {"CXX": COMPILER, "CNNJAX_KERNELS": ""} | environment
        done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", *(flags or ["--inplace"])], cwd=tmp_path,
                              capture_output=True, text=True, env={**os.environ, **environment})  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr, {path.stem: path for path in sorted(tmp_path.rglob("*.so"))}

    run.folder = tmp_path
    return run


def test_in_place_only_the_sets_of_this_machine_are_compiled_and_only_once(build):
    said, libraries = build()
    assert "cnnjax: compiling cnnjax.kernels." in said and "cnnjax: compiled in" in said
    assert "images" in libraries and 2 <= len(libraries) <= 3
    assert build()[0] == ""  # nothing has changed
    (build.folder / "cnnjax" / "kernels" / "one.cc").write_text("// changed\n")
    said, _ = build()
    assert "cnnjax.kernels." in said and "images" not in said


@pytest.mark.skipif(not X86, reason="this machine has one instruction set")
def test_a_wheel_has_all_sets_and_takes_over_what_is_compiled(build):
    own = build()[1].keys() - {"images"}
    said, _ = build("--build-lib=lib")
    assert {path.stem for path in (build.folder / "lib").rglob("*.so")} == {"sse2", "avx2", "avx512", "avx512bf16", "images"}
    assert all(f"cnnjax.kernels.{name}," not in said for name in own) and "images" not in said
    build("--build-lib=two", CNNJAX_KERNELS="sse2,avx2")
    assert {path.stem for path in (build.folder / "two").rglob("*.so")} == {"sse2", "avx2", "images"}


@pytest.mark.parametrize("environment", [{"CXX": "/no/compiler", "PATH": "/nowhere"}, {"CXX": "false"}],
                         ids=["no compiler", "a compiler that fails"])  # fmt: skip
def test_without_a_compiler_the_package_installs_without_libraries_and_says_so(build, environment):
    said, libraries = build(**environment)
    assert libraries == {} and "warning: " in said and "cnnjax is installed without" in said


@pytest.mark.slow
def test_the_wheel_of_this_machine_works_from_any_folder(tmp_path):
    """Takes seconds where all instruction sets are compiled in place, as in .ci/run."""
    source, site = tmp_path / "source", tmp_path / "venv"
    for name in ("cnnjax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    def run(*command, folder=tmp_path):
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CNNJAX_KERNELS")}
        done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".", folder=source)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("cnnjax-") and "-py3-none-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"cnnjax/py.typed", "cnnjax/configs/malaria.py", "cnnjax/pages/page.html"} <= names
    if X86:
        assert {f"cnnjax/kernels/{name}.so" for name in ("sse2", "avx2", "avx512", "avx512bf16")} <= names
    run(sys.executable, "-m", "venv", "--without-pip", site)
    python = site / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(*pip, "--python", python, "install", "--no-deps", wheel)
    # The packages that cnnjax needs are those of the tests. Their own editable cnnjax comes after this one.
    others = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    (packages / "others.pth").write_text(others)
    assert run(site / "bin" / "cnnjax", "--version").startswith("cnnjax ")
    assert "758,401" in run(site / "bin" / "cnnjax", "--mode=describe", "--config=malaria:demo", "--workdir=described")
    kernels = "import cnnjax; from cnnjax import kernels; print(cnnjax.__file__, kernels.why_not())"
    assert run(python, "-c", kernels).split() == [str(packages / "cnnjax" / "__init__.py")]
