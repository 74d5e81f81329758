"""The graded week: problem sets with a variant for each student, and their grading."""
