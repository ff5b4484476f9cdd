-- Which tables, views and columns are there, and in which units?
--
-- Tables (plural) hold the rows of all sweeps as they were written; views (singular: run, trial, point, curve, ...)
-- those of the chosen sweeps, each once. SQL of one's own is best asked of the views.
--
-- Parameters
--   table  VARCHAR  NULL  only this table or view; NULL: all
--
-- Columns
--   table_name   -  table or view
--   column_name  -  column
--   type         -  Arrow type
--   unit         -  unit; empty: none
--   meaning      -  what it says

WITH
final AS (
    SELECT table_name, column_name, type, unit, meaning, position
    FROM described
    WHERE table_name = coalesce($table, table_name)
)
SELECT * EXCLUDE (position) FROM final
ORDER BY position
