"""What models are trained on and asked: entities, questions, quizzes, batches."""
