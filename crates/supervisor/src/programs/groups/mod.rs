//! Control groups and process groups: what belongs to a copy, and its limits.
