"""What pyproject.toml cannot say: gopy builds the extension, and outputs stay out of build/, our sources."""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent / "build"))  # a plain folder, not a package
from gopy import BuildGo

Path("_build").mkdir(exist_ok=True)  # egg_info wants its folder to be there

setup(
    ext_modules=[Extension("ray_zerocopy._gozc", sources=[])],
    cmdclass={"build_ext": BuildGo},
    options={
        "build": {"build_base": "_build", "build_lib": "_build/lib"},
        "egg_info": {"egg_base": "_build"},
    },
)
