"""Records of what happened; no logic."""
