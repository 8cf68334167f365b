//! Tool index, selection, planner.
