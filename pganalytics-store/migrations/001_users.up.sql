-- min_app_version: 3.3.0

CREATE TABLE users (
    id uuid PRIMARY KEY,
    -- The integer that the older API calls a user's id.
    number bigint GENERATED ALWAYS AS IDENTITY,
    username text NOT NULL,
    -- Names and addresses are compared in the form that the application folds them to: what lower() makes of a
    -- letter depends on the database's locale.
    username_key text NOT NULL,
    email text,
    email_key text,
    full_name text,
    role text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    -- A PHC string; null for those who only sign in through somebody else.
    password_hash text,
    -- False as long as the password is one that somebody else has chosen.
    password_changed boolean NOT NULL DEFAULT false,
    -- The first administrator, who cannot be deactivated or lose the role.
    is_protected boolean NOT NULL DEFAULT false,
    -- Counts up with each change, so that nobody overwrites what they have not seen.
    version bigint NOT NULL DEFAULT 1,
    last_sign_in_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT users_number_key UNIQUE (number),
    CONSTRAINT users_username_key UNIQUE (username_key),
    CONSTRAINT users_email_key UNIQUE (email_key),
    CONSTRAINT users_role_check CHECK (role IN ('admin', 'user', 'viewer', 'auditor'))
);

-- Who a user is at an identity provider. The provider's subject is the identity; names and addresses may move
-- from one person to another.
CREATE TABLE external_identities (
    provider text NOT NULL,
    subject text NOT NULL,
    -- Deferrable, so that provisioning can claim the identity before it makes the user.
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE,
    created_at timestamptz NOT NULL,
    CONSTRAINT external_identities_pkey PRIMARY KEY (provider, subject)
);
CREATE INDEX external_identities_user_id_idx ON external_identities (user_id);
