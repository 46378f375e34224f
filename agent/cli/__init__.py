"""The `meshnode` command: each command is a module that is imported only when it is run."""
