"""From the raw maps of a dense detector to boxes. numpy alone: it runs on a board without torch."""
