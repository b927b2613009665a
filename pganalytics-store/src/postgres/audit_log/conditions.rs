/// What the indexes over the events `e` find. Beginnings are compared for the index, which takes no text of any length.
macro_rules! indexed {
    () => {
        "($1::timestamptz IS NULL OR e.at >= $1) AND ($2::timestamptz IS NULL OR e.at < $2) \
         AND ($3::uuid IS NULL OR e.user_id = $3) \
         AND ($4::text IS NULL OR (left(e.resource_type, 100) = left($4, 100) AND e.resource_type = $4)) \
         AND ($5::text IS NULL OR (left(e.resource_id, 255) = left($5, 255) AND e.resource_id = $5))"
    };
}

/// All conditions on the events `e`.
macro_rules! matching {
    () => {
        concat!(
            indexed!(),
            " AND ($6::text IS NULL OR e.actor_kind = $6) AND ($7::text IS NULL OR e.actor_id = $7) \
              AND ($8::text IS NULL OR starts_with(e.action, $8)) AND ($9::text IS NULL OR e.outcome = $9) \
              AND ($10::text IS NULL OR e.session_id = $10) AND ($11::text IS NULL OR e.request_id = $11)"
        )
    };
}

/// The conditions on the personal fields `p`, whose time is compared so that the partitions of other times are left out.
macro_rules! personal {
    () => {
        "p.at >= $1 AND p.at < $2 AND ($12::inet IS NULL OR p.address <<= $12) \
         AND ($13::text IS NULL OR position(lower($13 COLLATE \"C\") IN lower(p.changes::text COLLATE \"C\")) > 0)"
    };
}

/// After one place in the order of a page and up to another, of the parameters with these numbers. Times are compared once
/// more by themselves, since a comparison of pairs leaves no partition out.
macro_rules! between {
    ($after_at:literal, $after_id:literal, $last_at:literal, $last_id:literal) => {
        concat!(
            " AND ($",
            $after_at,
            "::timestamptz IS NULL OR (e.at <= $",
            $after_at,
            " AND (e.at, e.id) < ($",
            $after_at,
            ", $",
            $after_id,
            "::uuid))) AND ($",
            $last_at,
            "::timestamptz IS NULL OR (e.at >= $",
            $last_at,
            " AND (e.at, e.id) >= ($",
            $last_at,
            ", $",
            $last_id,
            "::uuid)))"
        )
    };
}

pub(super) use {between, indexed, matching, personal};
