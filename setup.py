"""What pyproject.toml cannot say: gopy builds the extension, and outputs stay out of build/, our sources."""

import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "build"))  # a plain folder, not a package
import toolchain
from gopy import BuildGo

try:
    Path("_build").mkdir(exist_ok=True)  # egg_info wants its folder to be there
except OSError:
    raise SystemExit("error: " + toolchain.READ_ONLY.format(toolchain.ROOT)) from None

# The last setuptools for Python 3.8 does not know of license expressions.
modern = int(setuptools.__version__.split(".")[0]) >= 77

setup(
    **{"license_expression" if modern else "license": "Apache-2.0"},
    license_files=["LICENSE", "LICENSES/*"],
    ext_modules=[Extension("ray_zerocopy._gozc", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildGo},
    options={
        "build": {"build_base": "_build", "build_lib": "_build/lib"},
        "bdist_wheel": {"py_limited_api": "cp38"},
        "egg_info": {"egg_base": "_build"},
    },
)
