"""The layout of ``--help``: two columns without frames, as argparse prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts.help import PlainFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions


class TwoColumns(PlainFormatter):
    """Names at the left, what they mean at the right, wrapped to the width of the terminal."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel: arguments, options or verbs."""
        from rich.padding import Padding
        from rich.table import Table

        if not panel.entries:
            return
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(max_width=26, overflow="fold")
        table.add_column()
        for entry in panel.entries:
            table.add_row(", ".join(entry.display_labels_with_metavar), entry.description)
        with console.capture() as printed:
            console.print(Padding(table, (0, 0, 1, 2)), highlight=False, markup=False)
        lines = [f"{panel.title}:", *(line.rstrip() for line in printed.get().splitlines())]
        print("\n".join(lines), file=console.file)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: object) -> None:
        """Print the first line."""
        print(f"usage: {str(usage).removeprefix('Usage: ').strip()}\n", file=console.file)
