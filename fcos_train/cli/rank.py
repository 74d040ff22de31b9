"""One rank of ``fcos-train VERB --devices N``: ``python -m fcos_train.cli.rank FOLDER``, as torchrun's agent starts it.

:mod:`fcos_train.launch.ranks` has left the options in the folder and reads there what a rank that fails has to say.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import traceback
from pathlib import Path

from fcos_train.__main__ import leave
from fcos_train.cli.main import message_of, status_of
from mmcv_overrides.errors import Stalled, UserError
from mmcv_overrides.signals import Stopped


def main(folder: Path) -> int:
    """Run the verb of the options in the folder.

    Returns:
        the status of the verb, or of a signal that has stopped it; 2 for a user error, 1 for another one, whose text is
        then in ``<rank>.error``.
    """
    rank = os.environ["RANK"]
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    (folder / f"{rank}.error").unlink(missing_ok=True)  # of the start before a restart
    module, options = pickle.loads((folder / "options").read_bytes())  # written by the process that started this one
    try:
        return importlib.import_module(module).run(options)
    except UserError as error:
        (folder / f"{rank}.error").write_text(message_of(error), encoding="utf-8")
        return 2
    except Stopped as stopped:
        return status_of(stopped)
    except Stalled as error:
        (folder / f"{rank}.error").write_text(str(error), encoding="utf-8")
        return 1
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error} (its traceback is above)"
        (folder / f"{rank}.error").write_text(text, encoding="utf-8")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    leave(main(Path(sys.argv[1])))
