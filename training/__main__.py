"""``python training``, or ``torchrun training``: see command_line.py."""

import importlib.util
import os
import sys
from pathlib import Path

# A folder that is run is in no package. Load the pack's folder as one, whatever it is called.
ROOT = Path(__file__).resolve().parents[1]
sys.path.pop(0)  # the modules of this folder would hide others
spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
assert spec is not None and spec.loader is not None
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
importlib.import_module("pack.training.command_line").main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # All is written and the processes have parted. Now and then a thread of gloo still aborts Python's own end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
