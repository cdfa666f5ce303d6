"""What amaru tells about itself: metrics and logs. Never a prompt, a completion or a key."""
