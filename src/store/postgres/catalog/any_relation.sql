-- Returns what plain_table.sql returns, for any relation.
WITH RECURSIVE
target AS MATERIALIZED (
  SELECT $1::text::regclass::oid AS oid
),
-- The relations that an INSERT may write to, through views and partitions.
reached(oid) AS (
  SELECT oid FROM target
  UNION
  SELECT next.oid FROM reached, LATERAL (
    SELECT relid::oid AS oid FROM pg_partition_tree(reached.oid::regclass)
    UNION ALL
    SELECT d.refobjid FROM pg_class v
    JOIN pg_rewrite w ON w.ev_class = v.oid AND w.ev_type = '1'
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
    WHERE v.oid = reached.oid AND v.relkind = 'v'
  ) next
),
relation AS MATERIALIZED (
  -- An array, because its length is estimated low: JIT would compile a plan that looks costly.
  SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = ANY (ARRAY(SELECT oid FROM reached))
),
-- The type of the token's column, below any domains.
kind(oid, typmod, depth) AS (
  SELECT a.atttypid, a.atttypmod, 0 FROM pg_attribute a, target
  WHERE a.attrelid = target.oid AND a.attname = $2 AND NOT a.attisdropped
  UNION ALL
  SELECT t.typbasetype, CASE WHEN k.typmod < 0 THEN t.typtypmod ELSE k.typmod END, k.depth + 1
  FROM kind k JOIN pg_type t ON t.oid = k.oid WHERE t.typtype = 'd'
)
SELECT json_build_object(
  'may_insert', (SELECT has_column_privilege(target.oid, a.attnum, 'INSERT') FROM target, pg_attribute a
    WHERE a.attrelid = target.oid AND a.attname = $2 AND NOT a.attisdropped),
  'may_select', (SELECT has_column_privilege(target.oid, a.attnum, 'SELECT') FROM target, pg_attribute a
    WHERE a.attrelid = target.oid AND a.attname = $2 AND NOT a.attisdropped),
  'may_select_xmin', (SELECT has_column_privilege(target.oid, a.attnum, 'SELECT') FROM target, pg_attribute a
    WHERE a.attrelid = target.oid AND a.attname = 'xmin'),
  {server},
  'target', (SELECT oid::int8 FROM target),
  'kind', (SELECT json_build_object('name', t.typname, 'title', format_type(t.oid, NULL), 'is_builtin', n.nspname = 'pg_catalog',
      'typmod', k.typmod)
    FROM kind k JOIN pg_type t ON t.oid = k.oid JOIN pg_namespace n ON n.oid = t.typnamespace
    ORDER BY k.depth DESC LIMIT 1),
  'is_exact', coalesce((SELECT l.collisdeterministic FROM pg_attribute a, target, pg_collation l
    WHERE a.attrelid = target.oid AND a.attname = $2 AND NOT a.attisdropped
    AND l.oid = a.attcollation), true),
  'domains', (SELECT coalesce(json_agg(json_build_object('name', t.typname, 'functions', (
      SELECT coalesce(json_agg(f.refobjid::regprocedure::text), '[]') FROM pg_constraint o
      JOIN pg_depend f ON f.classid = 'pg_constraint'::regclass AND f.objid = o.oid
        AND f.refclassid = 'pg_proc'::regclass
      WHERE o.contypid = t.oid))), '[]')
    FROM kind k JOIN pg_type t ON t.oid = k.oid WHERE t.typtype = 'd'),
  'ancestors', (SELECT coalesce(json_agg(json_build_object(
      'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
        WHERE a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])),
      'expression', pg_get_expr(p.partexprs, p.partrelid))), '[]')
    FROM target, pg_partition_ancestors(target.oid::regclass) up
    JOIN pg_partitioned_table p ON p.partrelid = up.relid WHERE up.relid <> target.oid),
  'relations', (SELECT coalesce(json_agg(json_build_object(
    {relation},
    'is_partition', c.relispartition,
    'parent', (SELECT inhparent::int8 FROM pg_inherits WHERE inhrelid = c.oid AND c.relispartition LIMIT 1),
    'takes_inserts', pg_relation_is_updatable(c.oid, true) & 8 <> 0,
    'has_row_security', row_security_active(c.oid),
    'rules', (SELECT coalesce(json_agg(CASE w.ev_type WHEN '2' THEN 'update' WHEN '3' THEN 'insert'
        ELSE 'delete' END), '[]')
      FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1' AND w.ev_enabled <> 'D'),
    'view', CASE c.relkind WHEN 'v' THEN json_build_object('definition', pg_get_viewdef(c.oid), 'reads', (
        SELECT coalesce(json_agg(DISTINCT d.refobjid::int8), '[]') FROM pg_rewrite w
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
        WHERE w.ev_class = c.oid AND w.ev_type = '1')) END,
    'key', (SELECT json_build_object(
        'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY (p.partattrs::int2[])),
        'expression', pg_get_expr(p.partexprs, c.oid))
      FROM pg_partitioned_table p WHERE p.partrelid = c.oid),
    'triggers', (SELECT coalesce(json_agg(json_build_object(
        'name', g.tgname,
        'is_before', g.tgtype & 2 <> 0,
        'is_instead', g.tgtype & 64 <> 0,
        'is_row', g.tgtype & 1 <> 0,
        'function', g.tgfoid::regprocedure::text,
        'symbol', CASE WHEN l.lanname IN ('c', 'internal') THEN p.prosrc END,
        'sets_durability', p.prosrc ILIKE '%synchronous_commit%'
          OR p.proconfig::text ILIKE '%synchronous_commit%' IS TRUE)), '[]')
      FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
      WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 4 <> 0),
    'policies', (SELECT coalesce(json_agg(pg_get_expr(coalesce(y.polwithcheck, y.polqual), y.polrelid)), '[]')
      FROM pg_policy y WHERE y.polrelid = c.oid AND y.polcmd IN ('*', 'a')
      AND EXISTS (SELECT FROM unnest(y.polroles) AS role (oid)
        WHERE CASE role.oid WHEN 0 THEN true ELSE pg_has_role(role.oid, 'USAGE') END))
    )), '[]') FROM relation c)
)::text
