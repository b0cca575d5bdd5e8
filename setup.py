"The package's metadata stand in settings.ini, once; this reads them."

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]

setup(
    name=meta["lib_name"],
    version=meta["version"],
    description=meta["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=meta["author"],
    license="Apache-2.0",
    url=meta["git_url"],
    keywords=meta["keywords"],
    packages=["dmsil", "dmsil.related"],
    package_data={"dmsil": ["*.mplstyle", "py.typed"]},
    python_requires=">=" + meta["min_python"],
    install_requires=meta["requirements"].split(),
    extras_require={
        name.removesuffix("_requirements"): meta[name].split() for name in meta if name.endswith("_requirements")
    },
    entry_points={"console_scripts": meta["console_scripts"].split("\n")},
)
