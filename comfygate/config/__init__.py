"""The configuration: from the text of a file to checked values, or one sentence."""
