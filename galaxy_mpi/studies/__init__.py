"""Questions asked of the device model and of runs: what if, what is an idea worth, who is right."""
