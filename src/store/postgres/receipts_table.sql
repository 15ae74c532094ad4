/*NO LOAD BALANCE*/ SELECT json_build_object(
'may_insert', has_table_privilege(c.oid, 'INSERT'), 'may_select', has_table_privilege(c.oid, 'SELECT'),
'relations', (SELECT json_agg(json_build_object(
    'schema', n.nspname, 'name', r.relname,
    'is_ordinary', r.relkind IN ('r', 'p'), 'is_logged', r.relpersistence = 'p',
    'has_triggers', EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = r.oid AND NOT t.tgisinternal),
    'has_rules', EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = r.oid),
    'has_row_security', r.relrowsecurity))
  FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS tree (id)
  JOIN pg_class r ON r.oid = id JOIN pg_namespace n ON n.oid = r.relnamespace),
'columns', (SELECT json_agg(json_build_object(
    'name', a.attname, 'type', format_type(a.atttypid, NULL),
    'is_required', a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''))
  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
'keys', (SELECT coalesce(json_agg((SELECT json_agg(a.attname ORDER BY a.attname) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey::int2[]) AND a.attnotnull)), '[]')
  FROM pg_index x WHERE x.indrelid = c.oid AND x.indisunique AND x.indimmediate AND x.indisvalid
  AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indnkeyatts = 4 AND x.indnatts = 4))::text
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.oid = to_regclass($1)
