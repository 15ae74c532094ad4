-- What decides whose fault a failed INSERT is, whether one can succeed, and what a look-up proves: one
-- JSON document, in one round trip. $1 is the relation as SQL, $2 the column's name. It reads
-- PostgreSQL's catalogs only (13 to 18), takes no lock on the relation and needs no right on it.
-- Returns no row unless the relation is a plain table: no partition, no rules, row security or triggers,
-- and a column without a domain or a collation of its own. What is left out is empty or false then.
-- any_relation.sql answers for every relation. A new backend needs twice the time to plan it.
-- server.sql and relation.sql take the places of their names in braces.
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
