"""``fcos-train rdk STEP``: what follows an export to an RDK board."""

DESCRIPTION = "Models for the boards RDK X5 and X3, after fcos-train export --target rdk-x5 or rdk-x3."
# step -> (module, one line of help)
STEPS = {
    "board-folder": ("fcos_train.cli.rdk.board_folder", "write the folder that goes to a board"),
    "table": ("fcos_train.cli.rdk.table", "predicted and measured speed, and what the quantisation costs"),
}
