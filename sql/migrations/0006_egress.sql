-- The ways out to the sites: one row for each identity that they can tell apart, a proxy and the cookies that go with it.

CREATE TABLE egress_lanes (
    -- Host and port of the proxy, or direct; never a part of its password.
    name text CONSTRAINT egress_lanes_pkey PRIMARY KEY,
    state text NOT NULL DEFAULT 'open' CONSTRAINT egress_lanes_state_known CHECK (state IN ('open', 'paused', 'probing')),
    -- Why it was paused last, until when at least, and how often in a row.
    reason text,
    paused_until timestamptz,
    pauses integer NOT NULL DEFAULT 0,
    -- The newest probe. It names the attempt that may open the lane; one that says nothing in time is taken for dead.
    probe bigint NOT NULL DEFAULT 0,
    probe_until timestamptz,
    -- The bucket that paces starts: what was in it then; what has come in since follows from the clock.
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    -- When a process last said that it uses the lane. One that nobody uses any more keeps no download waiting.
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT egress_lanes_pause_has_an_end CHECK ((state = 'paused') = (paused_until IS NOT NULL)),
    CONSTRAINT egress_lanes_probe_has_an_end CHECK ((state = 'probing') = (probe_until IS NOT NULL))
);

-- Whether every lane in use is closed, and when the first may be tried; a probe under way may open one any moment.
CREATE VIEW egress AS
SELECT coalesce(bool_and(state <> 'open'), false) AS paused,
    CASE WHEN NOT bool_or(state = 'probing') THEN nullif(greatest(min(paused_until), now()), now()) END AS until
FROM egress_lanes WHERE seen_at > now() - interval '1 minute';
