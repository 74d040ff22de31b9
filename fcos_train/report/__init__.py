"""Reads what runs leave behind: logs, records, configs and evaluations, as files. Standard library only, no torch."""
