-- Which tables and columns are there, and in which units?
--
-- Parameters
--   table  VARCHAR  NULL  only this table; NULL: all
--
-- Columns
--   table_name   -  table
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
