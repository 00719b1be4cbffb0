"""``python dev/host MODULE [ARGUMENTS]``: run the ``main()`` of a module of the pack inside the real ComfyUI.

``python dev/host dev.demo_model.train_unet --help`` runs ``dev/demo_model/train_unet.py``.
"""

import importlib
import sys
from pathlib import Path

# Python puts this folder first on the path, where its modules could hide others; at the end of it they are still found.
sys.path[0] = str(Path(__file__).resolve().parent)
from load import PACKAGE, load_pack  # noqa: E402

if len(sys.argv) < 2:
    raise SystemExit(__doc__)
sys.path.append(sys.path.pop(0))
load_pack()
name = sys.argv.pop(1)
sys.argv[0] = f"host {name}"
importlib.import_module(f"{PACKAGE}.{name}").main()
