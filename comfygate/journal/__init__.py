"""The journal: accepted prompts in a file that outlives the daemon and the machine's power."""
