-- A download that was refused before and is refused again while the lane is open for others may be what the site refuses.

ALTER TABLE egress_lanes
    -- The only job of that kind since the lane was opened; a second one speaks for the lane being refused.
    ADD COLUMN suspect bigint;
