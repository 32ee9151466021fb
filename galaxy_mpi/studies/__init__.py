"""Questions asked of the device model and of runs.

What if, what is an idea worth, who was right.
"""
