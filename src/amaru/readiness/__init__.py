"""Ready for production? Traffic played open-loop against an endpoint, measured, and the demo that shows it."""
