"""The paper's loss terms as pure functions: one value per row, weighted and averaged outside."""
