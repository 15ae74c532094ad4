-- Facts about the target relation as one JSON document, in one round trip: whose fault a failed
-- INSERT is, whether one can succeed, and what a look-up proves. $1 is the relation as SQL, $2 the
-- column's name. Reads only PostgreSQL's catalogs (13 to 18), takes no lock on the relation and
-- needs no right on it.
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
  -- The server stops this many transactions before wraparound, by its oldest database.
  'is_stopped', (SELECT max(age(datfrozenxid)) FROM pg_database) >= 2147483647
    - CASE WHEN current_setting('server_version_num')::int < 140000 THEN 1000000 ELSE 3000000 END,
  'has_standbys', current_setting('synchronous_standby_names') <> '',
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
    'oid', c.oid::int8, 'schema', c.nspname, 'name', c.relname, 'kind', c.relkind::text,
    'is_logged', c.relpersistence = 'p',
    'is_partition', c.relispartition,
    'parent', (SELECT inhparent::int8 FROM pg_inherits WHERE inhrelid = c.oid AND c.relispartition LIMIT 1),
    'takes_inserts', pg_relation_is_updatable(c.oid, true) & 8 <> 0,
    'may_select', has_table_privilege(c.oid, 'SELECT'),
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
    'columns', CASE WHEN c.oid = (SELECT oid FROM target) OR NOT c.relispartition THEN (
      SELECT coalesce(json_agg(json_build_object(
        'name', a.attname,
        'is_required', a.attnotnull OR (t.typtype = 'd' AND t.typnotnull),
        'identity', nullif(a.attidentity::text, ''),
        'is_generated', a.attgenerated <> '',
        'value', coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault),
        'type', t.typname, 'is_domain', t.typtype = 'd',
        'functions', (SELECT coalesce(json_agg(f.refobjid::regprocedure::text), '[]') FROM pg_depend f
          WHERE f.classid = 'pg_attrdef'::regclass AND f.objid = d.oid AND f.refclassid = 'pg_proc'::regclass),
        'sequence', (SELECT json_build_object(
            'name', s.seqrelid::regclass::text,
            'may_use', a.attidentity <> '' OR has_sequence_privilege(s.seqrelid, 'USAGE, UPDATE'),
            'is_exhausted', CASE
              WHEN s.seqcycle OR NOT has_sequence_privilege(s.seqrelid, 'SELECT, USAGE') THEN false
              WHEN s.seqincrement > 0 THEN pg_sequence_last_value(s.seqrelid) > s.seqincrement * -1
                + least(s.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767
                  WHEN 'int4'::regtype THEN 2147483647 ELSE s.seqmax END)
              ELSE pg_sequence_last_value(s.seqrelid) < s.seqmin - s.seqincrement END)
          FROM pg_depend q JOIN pg_sequence s
            ON s.seqrelid = CASE q.classid WHEN 'pg_class'::regclass THEN q.objid ELSE q.refobjid END
          WHERE (q.classid = 'pg_attrdef'::regclass AND q.objid = d.oid AND q.refclassid = 'pg_class'::regclass)
            OR (q.classid = 'pg_class'::regclass AND q.refclassid = 'pg_class'::regclass
              AND q.refobjid = c.oid AND q.refobjsubid = a.attnum AND q.deptype = 'i')
          LIMIT 1))), '[]')
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) ELSE '[]' END,
    'constraints', (SELECT coalesce(json_agg(json_build_object(
        'name', o.conname,
        'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY (o.conkey)),
        'functions', (SELECT coalesce(json_agg(f.refobjid::regprocedure::text), '[]') FROM pg_depend f
          WHERE f.classid = 'pg_constraint'::regclass AND f.objid = o.oid
          AND f.refclassid = 'pg_proc'::regclass))), '[]')
      FROM pg_constraint o WHERE o.conrelid = c.oid AND o.contype IN ('c', 'f')),
    'indexes', (SELECT coalesce(json_agg(json_build_object(
        'name', i.relname,
        'keys', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])),
        'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])),
        'expression', pg_get_expr(x.indexprs, c.oid),
        'predicate', pg_get_expr(x.indpred, c.oid),
        'functions', (SELECT coalesce(json_agg(f.refobjid::regprocedure::text), '[]') FROM pg_depend f
          WHERE f.classid = 'pg_class'::regclass AND f.objid = i.oid
          AND f.refclassid = 'pg_proc'::regclass))), '[]')
      FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid),
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
