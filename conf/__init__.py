"""What was asked: one TOML file becomes frozen dataclasses, or every mistake in it at once."""
