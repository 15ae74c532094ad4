-- The table of the trial database; PostgreSQL's image runs this when it makes its data folder.
CREATE TABLE secret_tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    data text NOT NULL CHECK (data NOT LIKE '%-%')
);
