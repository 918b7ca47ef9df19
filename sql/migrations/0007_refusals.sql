-- How often a site refused the lane that a job was tried on. Being put off for another reason says nothing about the job.

ALTER TABLE jobs ADD COLUMN refusals smallint NOT NULL DEFAULT 0;
