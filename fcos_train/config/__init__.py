"""From a config file and the options of a user to the config that the runner is built from."""
