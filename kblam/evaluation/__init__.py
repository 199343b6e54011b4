"""How well a model answers: quizzes put to it, figures, tables."""
