"""A model that somebody serves: asked over OpenAI's chat API, evaluated, paid for."""
