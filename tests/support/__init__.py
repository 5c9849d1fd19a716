"""What several test files need: one helper per thing. Test files import from here, never from one another."""
