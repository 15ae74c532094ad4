-- The server stops this many transactions before wraparound, by its oldest database.
'is_stopped', (SELECT max(age(datfrozenxid)) FROM pg_database) >= 2147483647
  - CASE WHEN current_setting('server_version_num')::int < 140000 THEN 1000000 ELSE 3000000 END,
'has_standbys', current_setting('synchronous_standby_names') <> ''
