"""amaru: one endpoint in front of every AI provider."""

