-- No DELETE: a destroyed key keeps its row.
GRANT SELECT, INSERT, UPDATE ON data_keys TO pganalytics_app;
-- The owner alone says how far the change is.
GRANT SELECT ON column_encryption TO pganalytics_app;
