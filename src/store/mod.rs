//! PostgreSQL: all SQL of the program.
