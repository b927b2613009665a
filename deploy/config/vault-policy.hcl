# What a server may do with its keys in Vault or OpenBao: wrap, unwrap and rewrap, but neither make, nor rotate, nor read them.
# For `keys.mount = "transit"` and `keys.key_prefix = "pganalytics-"`, the defaults.
path "transit/keys/pganalytics-data"       { capabilities = ["read"] }
path "transit/encrypt/pganalytics-data"    { capabilities = ["update"] }
path "transit/decrypt/pganalytics-data"    { capabilities = ["update"] }
path "transit/rewrap/pganalytics-data"     { capabilities = ["update"] }
path "transit/keys/pganalytics-signing"    { capabilities = ["read"] }
path "transit/encrypt/pganalytics-signing" { capabilities = ["update"] }
path "transit/decrypt/pganalytics-signing" { capabilities = ["update"] }
