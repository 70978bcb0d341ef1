"""Install this checkout, and what developing it needs, into the environment of the Python that runs this.

Packages are fetched and unpacked by uv, several at a time: half a minute, where pip takes two and a half. uv reads none
of pip's settings, so that it is told of them here; where it fails, pip does the work.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

WHAT = ("--constraint", "constraints.txt", "--editable", ".[dev]")
PIP = (sys.executable, "-m", "pip")
# A setting of pip that says where packages are, and uv's name for it.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
# Of the same setting the last one counts.
SECTIONS = ("global", "install", ":env:")


def settings(listed: str) -> dict[str, str]:
    """Values by name of what `pip config list` prints, as they hold for `pip install`."""
    lines = [line.partition("=") for line in listed.splitlines() if "=" in line]
    found = {}
    for section in SECTIONS:
        for name, _, value in lines:
            if name.startswith(f"{section}."):
                found[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return found


def options(found: dict[str, str]) -> list[str]:
    """uv's options for these settings of pip. As with pip the newest version counts, whichever index has it."""
    words = ["--index-strategy", "unsafe-best-match"]
    for name, option in OPTIONS.items():
        words += [word for one in found.get(name, "").split() for word in (option, one)]
    return [*words, "--no-index"] if found.get("no-index", "").lower() in ("1", "true", "yes", "on") else words


def by_uv() -> bool:
    """Whether uv has installed everything."""
    only = ("--quiet", "--only-binary", ":all:", "--constraint", "constraints.txt")
    if subprocess.run([*PIP, "install", *only, "uv"]).returncode:
        return False
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    found = settings(listed)
    environment = {"SSL_CERT_FILE": found["cert"]} if "cert" in found else {}
    call = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *options(found), *WHAT]
    return subprocess.run(call, env=environment | os.environ).returncode == 0


def main() -> None:
    if not by_uv():
        print("uv could not do it (see above); pip goes on, which takes longer", flush=True)
        sys.exit(subprocess.run([*PIP, "install", "--quiet", "--no-compile", *WHAT]).returncode)


if __name__ == "__main__":
    main()
