"""The command line: one module per verb, `main` in front of them."""
