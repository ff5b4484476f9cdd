"""The service: submit, watch, ask, share. All it knows is in the store: kill it at any time."""
