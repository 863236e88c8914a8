"""The `forkyard` command: the thinnest layer, which asks the others and shows what they say."""
