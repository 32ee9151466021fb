"""Pages of this package's commands: what they know, laid out as sections. Nothing is drawn here."""
