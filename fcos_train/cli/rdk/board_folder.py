"""``fcos-train rdk board-folder``: what goes to a board."""

from __future__ import annotations

from fcos_train.deploy.rdk.options import BoardFolderOptions


def run(options: BoardFolderOptions) -> int:
    """Write a folder with a model and a program that needs numpy and OpenCV alone.

    On the board: python3 rdk_demo.py --test-img IMAGE
    """
    from fcos_train.deploy.rdk.board_folder import write_board_folder

    files = write_board_folder(options.folder, options.model)
    print(f"{options.folder}: {len(files)} files; on the board: python3 rdk_demo.py --test-img IMAGE")
    return 0
