"""Imported first, this makes a script run in target/venv, which it makes where it is missing."""
import os
import subprocess
import sys
from pathlib import Path

_top = Path(__file__).resolve().parent.parent
if Path(sys.prefix) != _top / "target/venv":
    made = subprocess.run([_top / "scripts/get_python_env"], stdout=subprocess.PIPE, text=True)
    if made.returncode != 0:
        sys.exit(made.returncode)
    python = made.stdout.strip()
    os.execv(python, [python, *sys.argv])
