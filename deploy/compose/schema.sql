-- The table of the trial database. The PostgreSQL image runs this file when it creates its data folder.
CREATE TABLE secret_tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    data text NOT NULL CHECK (data NOT LIKE '%-%')
);
