-- No DELETE: a destroyed key keeps its row.
GRANT SELECT, INSERT, UPDATE ON data_keys TO pganalytics_app;
