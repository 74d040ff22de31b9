"""Detection on an RDK board: needs numpy and OpenCV alone.

``fcos-train rdk board-folder`` copies this folder and the decoder to a board; their imports are relative, so that the
copies run under any name.
"""
