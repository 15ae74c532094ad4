-- Facts about a plain table as one JSON document, in one round trip: whose fault a failed INSERT is,
-- whether one can succeed, and what a look-up proves. $1 is the relation as SQL, $2 the column's name.
-- Reads only PostgreSQL's catalogs (13 to 18), takes no lock on the relation and needs no right on it.
-- Returns no row if the relation is a partition, has rules, row security or triggers, or if the column
-- has a domain or a collation. Omitted facts are empty or false. any_relation.sql covers every relation,
-- but a new backend needs twice the time to plan it.
-- server.sql and relation.sql replace their names in braces.
SELECT json_build_object(
  'may_insert', has_column_privilege(c.oid, c.attnum, 'INSERT'),
  'may_select', has_column_privilege(c.oid, c.attnum, 'SELECT'),
  'may_select_xmin', has_column_privilege(c.oid, 'xmin', 'SELECT'),
  {server},
  'target', c.oid::int8,
  'kind', json_build_object('name', c.typname, 'title', format_type(c.type, NULL),
    'is_builtin', c.typnamespace = 'pg_catalog'::regnamespace, 'typmod', c.atttypmod),
  'is_exact', true,
  'domains', '[]'::json,
  'ancestors', '[]'::json,
  'relations', json_build_array(json_build_object(
    {relation},
    'takes_inserts', true))
)::text
FROM (
  SELECT c.*, n.nspname, a.attnum, a.atttypmod, a.attcollation, t.oid AS type, t.typname, t.typtype, t.typnamespace
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
  WHERE c.oid = $1::text::regclass AND a.attname = $2 AND NOT a.attisdropped
) c
WHERE c.relkind = 'r' AND NOT c.relispartition AND NOT c.relhasrules AND NOT c.relrowsecurity
  AND c.typtype <> 'd' AND c.attcollation IN (0, '"default"'::regcollation, '"C"'::regcollation)
  AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
  AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
