"""A model as people bring it: read, compared with what was asked for, or refused in one line."""
