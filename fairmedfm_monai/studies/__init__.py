"""Studies: many bundle runs as one plan, with the tables and figures of the study."""
