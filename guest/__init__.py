"""What runs inside a VM: the agent, the game, and how a parent's disk is made."""
