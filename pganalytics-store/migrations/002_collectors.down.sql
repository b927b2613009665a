DROP TABLE collector_config;
DROP TABLE collectors;
DROP TABLE registration_secrets;
