'oid', c.oid::int8, 'schema', c.nspname, 'name', c.relname, 'kind', c.relkind::text,
'is_logged', c.relpersistence = 'p',
'may_select', has_table_privilege(c.oid, 'SELECT'),
'columns', CASE WHEN c.oid = $1::text::regclass OR NOT c.relispartition THEN (
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
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid)
